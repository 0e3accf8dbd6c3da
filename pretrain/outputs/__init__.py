"""What a pre-training run shows: its folder, its curves, its metrics in wandb."""
