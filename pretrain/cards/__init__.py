"""What is known of a trained encoder or segmenter: its card, its name, how it is used."""
