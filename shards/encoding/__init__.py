"""Read, clean and encode every image once, into a spool."""
