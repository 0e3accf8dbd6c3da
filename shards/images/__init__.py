"""A file's bytes become a clean image."""
