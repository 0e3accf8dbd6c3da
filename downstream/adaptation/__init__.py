"""Domain adaptation: a segmenter of one domain for another, without labels of it."""
