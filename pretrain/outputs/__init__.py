"""What a pre-training run leaves for people: its folder, metrics elsewhere, curves."""
