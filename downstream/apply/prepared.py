"""Prepare images as an adapted network's training images were, and resize its maps back.

A card's `preparation` lists what adaptation did to the images: crop the data bar, rescale, invert
(`downstream.uda.prepare`). Rows are computed on demand, so images of any size can be streamed.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from downstream.apply.blend import BAND_ROWS, Band, Maps
from downstream.apply.scan import ImageReader, crop_data_bar, open_image
from downstream.uda.prepare import scaling_method, working_shape
from shards.images import Pixels

Shape = tuple[int, int]
ReadRows = Callable[[int, int], Maps]

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
            rows = reader.rows(top, bottom)
        else:
            rows = _scaled_pixels(reader, source, target, top, bottom, method)
        return 255 - rows if preparation.get("invert") else rows

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
        low, high = _needed(working[0], native[0], top, bottom)
        while start + slab.shape[1] < high:
            slab = np.concatenate([slab[:, max(low - start, 0) :], next(waiting).maps], axis=1)
            start = max(low, start)
        yield Band(top, _scaled_maps(slab, start, working, native, top, bottom))


def _scaled_pixels(
    reader: ImageReader,
    source: Shape,
    target: Shape,
    top: int,
    bottom: int,
    method: Image.Resampling,
) -> Pixels:
    channels = []
    for channel in range(3):

        def read(low: int, high: int, channel: int = channel) -> Maps:
            return reader.rows(low, high)[..., channel].astype(np.float32)

        channels.append(_scaled(read, source, target, top, bottom, method))
    return np.rint(np.stack(channels, axis=2)).clip(0, 255).astype(np.uint8)


def _scaled_maps(
    slab: Maps, start: int, working: Shape, native: Shape, top: int, bottom: int
) -> Maps:
    bilinear = Image.Resampling.BILINEAR
    channels = []
    for values in slab:

        def read(low: int, high: int, values: Maps = values) -> Maps:
            return values[low - start : high - start]

        channels.append(_scaled(read, working, native, top, bottom, bilinear))
    return np.stack(channels)


def _scaled(
    read: ReadRows,
    source: Shape,
    target: Shape,
    top: int,
    bottom: int,
    method: Image.Resampling,
) -> Maps:
    """Rows `top` to `bottom` of the resized image, equal to those of resizing it as a whole."""
    low, high = _needed(source[0], target[0], top, bottom)
    ratio = source[0] / target[0]
    # Pillow's filters read pixels outside the box, whose corners may be fractional. It is exact for
    # float images, but not for 8-bit ones.
    box = (0, top * ratio - low, source[1], bottom * ratio - low)
    rows = Image.fromarray(np.ascontiguousarray(read(low, high)))
    return np.asarray(rows.resize((target[1], bottom - top), method, box))


def _needed(source: int, target: int, top: int, bottom: int) -> tuple[int, int]:
    """The source rows needed for rows `top` to `bottom` of the target."""
    ratio = source / target
    reach = math.ceil(_SUPPORT * max(ratio, 1)) + 1
    low, high = math.floor(top * ratio) - reach, math.ceil(bottom * ratio) + reach
    return max(low, 0), min(high, source)
