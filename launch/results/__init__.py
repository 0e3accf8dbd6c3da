"""Results of a grid beside the published ones."""
