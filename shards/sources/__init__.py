"""Folders, archives, tables and recipes become a list of image files."""
