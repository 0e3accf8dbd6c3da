"""The HTML report of a shard set."""
