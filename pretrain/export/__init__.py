"""Export a finished run as an encoder that others can load."""
