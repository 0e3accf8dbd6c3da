"""Will this training run work here, how fast, and what is to be done if not."""
