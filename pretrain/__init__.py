"""Shards become an encoder: the DALI loader, the trainer, the export."""
