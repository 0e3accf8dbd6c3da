"""Every image is read, cleaned and encoded once, into a spool."""
