"""What a run is: its folder, state, checkpoints, metrics, exit codes; for all trainers."""
