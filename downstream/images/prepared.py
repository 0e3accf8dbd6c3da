"""Prepare images as an adapted network's training images were, and resize its maps back.

A card's `preparation` lists what adaptation did to the images: crop the data bar, rescale, invert
(`downstream.domains.prepare`). Rows are computed on demand, so images of any size can be streamed.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from downstream.images.blend import BAND_ROWS, Band, Maps
from downstream.images.scaling import scaling_method, working_shape
from downstream.images.scan import ImageReader, crop_data_bar, open_image
from shards.images.decode import Pixels

Shape = tuple[int, int]

_SUPPORT = 2  # pixels on each side of the centre that the widest filter, bicubic, uses


def open_prepared(
    path: Path, preparation: Mapping[str, Any], *, crop_bar: bool = False
) -> tuple[ImageReader, ImageReader]:
    """Open an image: at the size of its mask, and prepared for the network.

    `crop_bar` crops the data bar even if `preparation` does not. Raises `UserError` as
    `open_image` does.
    """
    return prepare(open_image(path), {**preparation, **({"crop_bar": True} if crop_bar else {})})


def prepare(reader: ImageReader, preparation: Mapping[str, Any]) -> tuple[ImageReader, ImageReader]:
    """The image at the size of its mask, and prepared for the network."""
    whole = crop_data_bar(reader) if preparation.get("crop_bar") else reader
    return whole, prepared_reader(whole, preparation) if preparation else whole


def prepared_reader(reader: ImageReader, preparation: Mapping[str, Any]) -> ImageReader:
    """The image rescaled and inverted as `preparation` says."""
    source = (reader.height, reader.width)
    target = working_shape(*source, preparation.get("scale", 1.0))
    method = scaling_method(source, target)

    def read(top: int, bottom: int) -> Pixels:
        if source == target:
            pixels = reader.rows(top, bottom)
        else:
            low, high = _needed_rows(source[0], target[0], top, bottom)
            channels = reader.rows(low, high).transpose(2, 0, 1).astype(np.float32)
            resized = [
                _resized_rows(channel, low, source, target, (top, bottom), method)
                for channel in channels
            ]
            pixels = np.rint(np.stack(resized, axis=2)).clip(0, 255).astype(np.uint8)
        return 255 - pixels if preparation.get("invert") else pixels

    return replace(reader, height=target[0], width=target[1], _read=read)


def native_bands(bands: Iterable[Band], working: Shape, native: Shape) -> Iterator[Band]:
    """Resize maps from the `working` to the `native` (rows, columns), band by band."""
    if working == native:
        yield from bands
        return
    waiting = iter(bands)
    first = next(waiting)
    slab, start = first.maps, first.top  # rows that may still be needed
    for top in range(0, native[0], BAND_ROWS):
        bottom = min(top + BAND_ROWS, native[0])
        low, high = _needed_rows(working[0], native[0], top, bottom)
        while start + slab.shape[1] < high:
            slab = np.concatenate([slab[:, max(low - start, 0) :], next(waiting).maps], axis=1)
            start = max(low, start)
        resized = [
            _resized_rows(
                channel[low - start : high - start],
                low,
                working,
                native,
                (top, bottom),
                Image.Resampling.BILINEAR,
            )
            for channel in slab
        ]
        yield Band(top, np.stack(resized))


def _resized_rows(
    channel: Maps, low: int, source: Shape, target: Shape, rows: Shape, method: Image.Resampling
) -> Maps:
    """The `rows` from top to bottom of a resized channel, as if it were resized as a whole.

    `channel` is the part of it from row `low` that `_needed_rows` says.
    """
    ratio = source[0] / target[0]
    # Pillow's filters read pixels outside the box, whose corners may be fractional. It is exact for
    # float images, but not for 8-bit ones.
    box = (0, rows[0] * ratio - low, source[1], rows[1] * ratio - low)
    image = Image.fromarray(np.ascontiguousarray(channel))
    return np.asarray(image.resize((target[1], rows[1] - rows[0]), method, box))


def _needed_rows(source: int, target: int, top: int, bottom: int) -> tuple[int, int]:
    """The source rows needed for rows `top` to `bottom` of the target."""
    ratio = source / target
    reach = math.ceil(_SUPPORT * max(ratio, 1)) + 1
    low, high = math.floor(top * ratio) - reach, math.ceil(bottom * ratio) + reach
    return max(low, 0), min(high, source)
