"""A finished run becomes an encoder that others can load."""
