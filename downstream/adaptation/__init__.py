"""What adaptation to another domain is made of."""
