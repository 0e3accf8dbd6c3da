"""Drawn lath bainite in four domains."""
