"""Many adaptation runs, compared as in paper B."""
