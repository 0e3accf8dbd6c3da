"""The checks of a finished shard set."""
