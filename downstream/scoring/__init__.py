"""Segmentation metrics and pictures of errors."""
