"""Application: a segmenter and images of any size in, masks and their trustworthiness out."""
