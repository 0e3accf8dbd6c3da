"""An encoder becomes a segmenter."""
