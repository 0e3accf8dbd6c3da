"""Linear probes of frozen encoders on labelled images."""
