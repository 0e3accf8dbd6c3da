"""Turn a grid file into a list of tasks."""
