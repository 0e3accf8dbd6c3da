"""The classifier: encoder, head, initial weights."""
