"""The working scale of an image: its shape, and how it is resampled."""

import math

from PIL import Image


def working_shape(height: int, width: int, scale: float) -> tuple[int, int]:
    """Size after scaling, with halves rounded up: 1,433 rows become 717."""
    return _scaled(height, scale), _scaled(width, scale)


def scaling_method(source: tuple[int, ...], target: tuple[int, ...]) -> Image.Resampling:
    """Hamming to shrink, as in `shards.images.decode`; bicubic to enlarge, which gives no steps."""
    grows = target[0] > source[0]
    return Image.Resampling.BICUBIC if grows else Image.Resampling.HAMMING


def _scaled(length: int, scale: float) -> int:
    return max(1, math.floor(length * scale + 0.5))
