"""Segmentation networks and their receptive fields."""
