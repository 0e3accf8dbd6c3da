"""Colour images of more than 8 bits."""

import io

import numpy as np
from PIL import Image

from shards.images.decode import Pixels


def upper_bits(data: bytes) -> Pixels:
    """The upper 8 bits `(H, W, 3)` of an RGB image with 16 bits per channel."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))  # writable, as torch requires
