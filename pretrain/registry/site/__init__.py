"""The registry's pages and READMEs."""
