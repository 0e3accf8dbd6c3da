"""Finds the data bar that a microscope's software adds at the bottom or top of an image.

A bar is a band over the full width of the image at one of its edges, of one background grey, and
nearly all of its columns begin at the same row. Text and scale stand on it, or nothing. Whatever
fits only in part is left alone: a missed bar costs a little, a cut micrograph may cost more.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from shards.images import Pixels

Edge = Literal["bottom", "top"]
Flags = npt.NDArray[np.bool_]

MIN_ROWS = 8  # no text is legible below that
MIN_HEIGHT, MAX_HEIGHT = 0.02, 0.25  # of the image
# Frames and scanning margins of up to 4 % hold nothing either, and are no bars.
MIN_BLANK_HEIGHT = 0.05

# Grey levels about a bar's background: JPEG at quality 75, or resampling, rings that far from text.
RINGING = 10
ROUNDING = 2  # the same far from any text; the noise of a micrograph spreads wider

MIN_FLAT = 0.5  # of a bar's pixels show its background; the densest text known covers 0.45
MIN_BLANK_FLAT = 0.98  # the rest: JPEG's ringing at the border
# Columns whose grey changes at the bar's very first row. A micrograph as black as its black bar
# has few of these, but an interface in a micrograph is not straight to one row either.
MIN_STRAIGHT = 0.5
MIN_BLANK_STRAIGHT = 0.8  # where no text bears witness; a clipped region with a gentle rim has 0.6

GLYPH_CONTRAST = 64  # grey levels, a quarter of the range
MIN_GLYPH_EDGES = 10  # in the row with most of them; "5 µm" alone has more, a frame's corners four

MAX_BORDER_ROWS = 3  # the line that some makers draw between micrograph and bar
MIN_UNIFORM = 0.9  # of a border line's pixels have its grey

MAX_COLUMNS = 640  # looked at: text survives, and the time does not grow with the width


@dataclass(frozen=True, slots=True)
class DataBar:
    """Rows `row:` are the bar at the bottom; rows `:row` are the bar at the top."""

    edge: Edge
    row: int


def find_data_bar(pixels: Pixels) -> DataBar | None:
    """Find the bar in `(H, W)` or `(H, W, 3)` uint8; at most one, the bottom looked at first."""
    grey = pixels if pixels.ndim == 2 else pixels[..., 1]
    height, width = grey.shape
    sampled = grey[:, :: -(-width // MAX_COLUMNS)]
    depth = int(MAX_HEIGHT * height) + MAX_BORDER_ROWS + 1
    if rows := _bar_rows(np.ascontiguousarray(sampled[: -depth - 1 : -1]), height):
        return DataBar("bottom", height - rows)
    if rows := _bar_rows(np.ascontiguousarray(sampled[:depth]), height):
        return DataBar("top", rows)
    return None


def crop_data_bar(pixels: Pixels, bar: DataBar) -> Pixels:
    """The micrograph without its bar: a view of `pixels`."""
    return pixels[: bar.row] if bar.edge == "bottom" else pixels[bar.row :]


def _bar_rows(band: Pixels, height: int) -> int:
    """How many of the first rows of `band` (the image's outermost row first) are a bar, or 0."""
    least = max(MIN_ROWS, round(MIN_HEIGHT * height))
    background = int(np.bincount(band[:least].ravel()).argmax())
    flat = _near(band, background, RINGING)
    begins = _share(flat[:-1] & ~flat[1:])
    cover = np.cumsum(_share(flat)) / np.arange(1, len(flat) + 1)
    fits = (begins >= MIN_STRAIGHT) & (cover[:-1] >= MIN_FLAT)
    fits[: least - 1] = False
    fits[int(MAX_HEIGHT * height) :] = False
    for last in np.flatnonzero(fits)[::-1]:  # the innermost first: a bar may have lines across
        rows = int(last) + 1
        blank = begins[last] >= MIN_BLANK_STRAIGHT and rows >= MIN_BLANK_HEIGHT * height
        if _has_glyphs(band[:rows]) or (blank and _is_blank(band[:rows], background)):
            return rows + _border_rows(band[rows:])
    return 0


def _has_glyphs(bar: Pixels) -> bool:
    """Whether text or a scale stands on the bar; the lines of a frame have no edges along a row."""
    steps = np.maximum(bar[:, 1:], bar[:, :-1]) - np.minimum(bar[:, 1:], bar[:, :-1])
    return bool(np.count_nonzero(steps > GLYPH_CONTRAST, axis=1).max() >= MIN_GLYPH_EDGES)


def _is_blank(bar: Pixels, background: int) -> bool:
    return bool(_near(bar, background, ROUNDING).mean() >= MIN_BLANK_FLAT)


def _border_rows(beyond: Pixels) -> int:
    """The rows of the line between bar and micrograph, or 0."""
    for rows in range(min(MAX_BORDER_ROWS, len(beyond) - 1), 0, -1):
        line = _near(beyond[: rows + 1], int(np.median(beyond[0])), RINGING)
        if line[:rows].mean() >= MIN_UNIFORM and (line[rows - 1] & ~line[rows]).mean() >= (
            MIN_STRAIGHT
        ):
            return rows
    return 0


def _near(values: Pixels, grey: int, levels: int) -> Flags:
    return (values >= max(grey - levels, 0)) & (values <= min(grey + levels, 255))


def _share(flags: Flags) -> npt.NDArray[np.float64]:
    """The share of true columns, per row."""
    return np.count_nonzero(flags, axis=1) / flags.shape[1]
