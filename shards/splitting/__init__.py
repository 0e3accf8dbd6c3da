"""Groups of images are assigned to training and validation."""
