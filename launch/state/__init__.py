"""The state of each task of a grid."""
