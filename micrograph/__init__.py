"""What every program of the project shares."""
