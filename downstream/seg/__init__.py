"""Segmentation: labelled micrographs in, a segmenter and its scores out."""
