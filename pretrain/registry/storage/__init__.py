"""Where registry entries lie, and how they are fetched."""
