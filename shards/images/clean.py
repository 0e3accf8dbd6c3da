"""Clean an image: crop its data bar, reject label masks and images with many annotations.

As paper B did by hand for NanoSEM ("Data": bars cropped, images with many burnt-in annotations
discarded). Every decision is recorded with the sample, and another setting undoes it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.images.annotations import MANY_MARKS, Annotations, find_annotations
from shards.images.databar import DataBar, crop_data_bar, find_data_bar
from shards.images.decode import (
    MIN_SIDE,
    WINDOW_PERCENTILES,
    Notes,
    Pixels,
    RejectedImage,
    decode_raw,
    to_eight_bits,
    window,
)
from shards.shard_format.config import WriteConfig

# A label mask has few values, and nearly all its neighbouring pixels are equal. Micrographs have
# noise, even those of few grey levels; with three values none is worth keeping.
MAX_MASK_VALUES, MIN_MASK_FLAT, CERTAIN_MASK_VALUES = 32, 0.9, 3
BAR_PERCENTILE = 90.0  # the white of a bar's text takes up less of an image than the rest
_MASK_SAMPLE_ROWS = 16  # tried first: most micrographs have more values there
_STRIP = 1 << 20  # pixels whose colours are counted at once: the copies are large


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A micrograph, `(H, W)` or `(H, W, 3)` uint8, and what was found and done.

    `height` is that of the file, before its bar was cropped.
    """

    pixels: Pixels
    notes: Notes
    height: int
    bar: DataBar | None
    annotations: Annotations | None


def clean_image(data: bytes, config: WriteConfig) -> Cleaned:
    """Decode and clean one image file. Raises `RejectedImage`, nothing else."""
    raw = decode_raw(data)
    if config.masks == "reject":
        _check_is_no_mask(raw.values)
    bar = _data_bar(raw.values) if config.data_bars == "crop" else None
    # Cropped first: the bar would distort the window of a deep image, and its colours the grey.
    values = raw.values if bar is None else _crop(raw.values, bar)
    micrograph = to_eight_bits(values, grey=config.grey)
    # Searched for on request only: it takes as long as decoding an image.
    search = config.annotations != "keep"
    annotations = find_annotations(micrograph.pixels) if search else None
    marks = 0 if annotations is None else annotations.marks
    if config.annotations == "discard" and marks >= MANY_MARKS:
        raise RejectedImage("annotated", f"{marks} burnt-in marks, at most {MANY_MARKS - 1}")
    notes = {**raw.notes, **micrograph.notes}
    return Cleaned(micrograph.pixels, notes, raw.values.shape[0], bar, annotations)


def _data_bar(values: npt.NDArray[Any]) -> DataBar | None:
    if values.dtype == np.uint8:
        return find_data_bar(values)
    # Beside the white of a bar, 12 bits in 16 are all black: then without the brightest pixels.
    windows = (WINDOW_PERCENTILES, (WINDOW_PERCENTILES[0], BAR_PERCENTILE))
    bars = (find_data_bar(window(values, percentiles)[0]) for percentiles in windows)
    return next((bar for bar in bars if bar is not None), None)


def _crop(values: npt.NDArray[Any], bar: DataBar) -> npt.NDArray[Any]:
    cropped = np.ascontiguousarray(crop_data_bar(values, bar))
    if min(cropped.shape[:2]) < MIN_SIDE:
        height, width = cropped.shape[:2]
        raise RejectedImage("too_small", f"{width} x {height} pixels without its data bar")
    return cropped


def _check_is_no_mask(values: npt.NDArray[Any]) -> None:
    sample = values[:: -(-values.shape[0] // _MASK_SAMPLE_ROWS)]
    if _distinct(sample if sample.ndim == 2 else sample[..., 1]) > MAX_MASK_VALUES:
        return
    count = _distinct(values)
    if count == 1 or count > MAX_MASK_VALUES:  # 1: blank, which is rejected as such
        return
    equal = values[:, 1:] == values[:, :-1]
    flat = float((equal if equal.ndim == 2 else equal.all(axis=2)).mean())
    if count <= CERTAIN_MASK_VALUES or flat >= MIN_MASK_FLAT:
        raise RejectedImage("mask", f"has only {count} values; --masks keep accepts it")


def _distinct(values: npt.NDArray[Any]) -> int:
    """The number of values or colours; counting stops beyond `MAX_MASK_VALUES`."""
    seen = np.empty(0, values.dtype)
    rows = max(1, _STRIP // values.shape[1])
    for start in range(0, len(values), rows):
        seen = np.union1d(seen, _numbered(values[start : start + rows]))
        if len(seen) > MAX_MASK_VALUES:
            break
    return len(seen)


def _numbered(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The distinct values; a colour counts as one number."""
    if values.ndim == 3:
        wide = values.astype(np.uint32)
        values = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    elif values.dtype == np.uint8:
        return np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    return np.unique(values)
