"""The folder of a segmentation run."""
