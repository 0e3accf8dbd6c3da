"""A grid file becomes a list of tasks."""
