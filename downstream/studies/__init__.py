"""The tables and figures of papers A and B, made of many runs."""
