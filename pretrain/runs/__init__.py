"""What a run is: its folder, state, checkpoints, metrics and exit codes. Knows no training."""
