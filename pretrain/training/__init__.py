"""What pre-training does between two checkpoints."""
