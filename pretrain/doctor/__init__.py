"""Checks whether a training will work on this machine, and how fast."""
