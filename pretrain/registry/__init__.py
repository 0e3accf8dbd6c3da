"""Encoders by name: where they are published, found, checked and cached."""
