"""Fine-tuning on a few labelled images."""
