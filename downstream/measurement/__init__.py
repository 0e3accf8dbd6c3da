"""Phase fractions, regions and layers, measured on masks."""
