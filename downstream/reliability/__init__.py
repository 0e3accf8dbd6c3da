"""Calibration and out-of-distribution scores."""
