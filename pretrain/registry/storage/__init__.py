"""Where registry entries are stored, and how they are fetched."""
