"""Label masks: layout, classes, checks."""
