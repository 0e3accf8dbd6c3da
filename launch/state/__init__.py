"""Where each task of a grid stands."""
