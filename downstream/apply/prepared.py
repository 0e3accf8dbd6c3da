"""Images as an adapted network was trained to see them, and its maps at the images' own size.

A card's `preparation` says what adaptation did to the images: data bar cut, rescaled, inverted
(`downstream.uda.prepare`). Rows are made as they are asked for, so any image still streams.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from downstream.apply.blend import BAND_ROWS, Band, Maps
from downstream.apply.scan import Scan, open_scan, without_bar
from downstream.uda.prepare import scaling_method, working_shape
from shards.images import Pixels

Shape = tuple[int, int]
ReadRows = Callable[[int, int], Maps]

_SUPPORT = 2  # pixels that the widest filter, bicubic, reaches to each side of its centre


def open_prepared(
    path: Path, preparation: Mapping[str, Any], *, crop_bar: bool = False
) -> tuple[Scan, Scan]:
    """An image as its mask will be, and as the network is to see it.

    `crop_bar` leaves the data bar out even where `preparation` does not. Raises `UserError` as
    `open_scan` does.
    """
    return prepare(open_scan(path), {**preparation, **({"crop_bar": True} if crop_bar else {})})


def prepare(scan: Scan, preparation: Mapping[str, Any]) -> tuple[Scan, Scan]:
    """`scan` as its mask will be, and as the network is to see it."""
    whole = without_bar(scan) if preparation.get("crop_bar") else scan
    return whole, prepared_scan(whole, preparation) if preparation else whole


def prepared_scan(scan: Scan, preparation: Mapping[str, Any]) -> Scan:
    """`scan` rescaled and inverted by `preparation`."""
    source = (scan.height, scan.width)
    target = working_shape(*source, preparation.get("scale", 1.0))
    method = scaling_method(source, target)

    def read(top: int, bottom: int) -> Pixels:
        if source == target:
            rows = scan.rows(top, bottom)
        else:
            rows = _scaled_pixels(scan, source, target, top, bottom, method)
        return 255 - rows if preparation.get("invert") else rows

    return replace(scan, height=target[0], width=target[1], _read=read)


def native_bands(bands: Iterable[Band], working: Shape, native: Shape) -> Iterator[Band]:
    """Bring maps from the `working` (rows, columns) to the `native` ones, band by band."""
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
    scan: Scan, source: Shape, target: Shape, top: int, bottom: int, method: Image.Resampling
) -> Pixels:
    channels = []
    for channel in range(3):

        def read(low: int, high: int, channel: int = channel) -> Maps:
            return scan.rows(low, high)[..., channel].astype(np.float32)

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
    """Rows `top` to `bottom` of an image scaled from `source` to `target`, as if scaled whole."""
    low, high = _needed(source[0], target[0], top, bottom)
    ratio = source[0] / target[0]
    # Pillow's filters reach beyond the box, whose corners need be no whole pixels; with floats it
    # keeps to it exactly, with bytes not.
    box = (0, top * ratio - low, source[1], bottom * ratio - low)
    rows = Image.fromarray(np.ascontiguousarray(read(low, high)))
    return np.asarray(rows.resize((target[1], bottom - top), method, box))


def _needed(source: int, target: int, top: int, bottom: int) -> tuple[int, int]:
    """The rows of the source that rows `top` to `bottom` of the target are made of."""
    ratio = source / target
    reach = math.ceil(_SUPPORT * max(ratio, 1)) + 1
    low, high = math.floor(top * ratio) - reach, math.ceil(bottom * ratio) + reach
    return max(low, 0), min(high, source)
