"""Drawn micrographs with exact labels, for the demo and the tests."""
