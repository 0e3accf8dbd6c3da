"""Micrographs become tar shards; imports nothing else of this project and never torch."""
