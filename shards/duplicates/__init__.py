"""Near-duplicate search: which micrographs show the same place."""
