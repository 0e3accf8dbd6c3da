"""What every program shares; imports nothing of ours and no torch."""
