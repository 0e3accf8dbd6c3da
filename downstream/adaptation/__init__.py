"""Adaptation to an unlabelled domain: settings, loop and run folder; `methods/` has the methods."""
