"""Source and target domains: study files, tiles, evaluation."""
