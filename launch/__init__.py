"""Many trainings at once: grids and cluster jobs; never imports torch."""
