"""What every program shares; imports none of the other packages, and no torch."""
