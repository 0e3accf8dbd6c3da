"""What a shard set is, and the settings that it is written with."""
