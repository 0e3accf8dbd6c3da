"""Masks of images of any size."""
