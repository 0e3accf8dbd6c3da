"""Images of any size and depth, prepared, tiled and blended."""
