"""Shards, tables and the final folder are written."""
