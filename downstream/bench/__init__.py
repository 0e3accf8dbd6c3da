"""A study: many segmentation runs, compared by their initialisation."""
