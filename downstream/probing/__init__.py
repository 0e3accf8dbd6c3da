"""A quick look at encoders on one's own labelled images: linear classifiers on frozen features."""
