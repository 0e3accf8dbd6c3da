"""Write shards, tables and the final folder."""
