"""What can be said of a segmenter on a new domain without that domain's labels."""
