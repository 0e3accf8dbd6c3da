"""Shards become batches: order, decoding, augmentation."""
