"""Find the data bar that a microscope's software adds at the bottom or top of an image.

A bar spans the width of the image at one of its edges, and nearly all its columns begin at the
same row. It has text or a scale on a background of one grey, or on the dimmed micrograph; or it is
empty, of a single grey. What fits only in part is kept: a missed bar costs little, a cropped
micrograph may cost more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from shards.images.decode import Pixels

MIN_ROWS = 8  # no text is legible below that
MIN_HEIGHT, MAX_HEIGHT = 0.02, 0.25  # of the image

# Grey levels about a bar's background: JPEG at quality 75, or resampling, rings that far from text.
RINGING = 10
ROUNDING = 1  # the same far from text; the noise of micrographs spreads wider

MIN_FLAT = 0.5  # of a bar's pixels have its background; the densest real text seen leaves 0.53
# A bar's background appears in nearly all columns, beside their letters; between the black boxes of
# a panel letter and a label it does not.
MIN_WIDTH, MIN_COLUMN_FLAT = 0.8, 0.4
# Of the rim's pixels have the background but for rounding: 0.44 in the bar that JPEG and resampling
# changed most, 0.2 in micrographs of the bar's grey, which must not count as a part of it.
MIN_RIM_EXACT = 0.35
MIN_BLANK_EXACT = 0.98  # of an empty bar's; the rest is JPEG's ringing at the border
# Of the columns change their grey exactly where the bar begins. A micrograph as black as its bar
# has few, but interfaces in micrographs are less straight still: 0.44 at most in real ones.
MIN_STRAIGHT = 0.5
BORDER = 2  # rows over which resampling spreads that change

GLYPH_CONTRAST = 64  # grey levels, a quarter of the range
MIN_GLYPH_EDGES = 10  # along a row; "5 µm" alone has more, a frame's sides four
MIN_GLYPH_ROWS = 4  # with so many edges; the smallest legible letters are five rows high

# Empty and translucent bars have less to go by, and must differ more from micrographs:
CLEAR_HEIGHT = 0.05  # of the image; black frames and scanning margins of 4 % are common
CLEAR_STRAIGHT = 0.8  # within one row; a clipped region with a gently wavy rim has 0.6

# Of the micrograph's contrast below a translucent bar: less is opaque, more is a jump of the beam.
MIN_KEPT, MAX_KEPT = 0.2, 0.85
MIN_CONTINUITY = 0.5  # correlation across the bar's first row; across an interface it is about 0

# A bar's innermost rows have no text yet, but show the border's blur, or the waves of an interface.
RIM_ROWS = 4
MAX_BORDER_ROWS = 3  # the line that some makers draw between micrograph and bar
MIN_UNIFORM = 0.9  # of that line's pixels have its grey

MAX_COLUMNS = 640  # sampled: enough for text, and the time does not grow with the width


T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class DataBar:
    """Rows `row:` are the bar at the bottom; rows `:row` are the bar at the top."""

    edge: Literal["bottom", "top"]
    row: int


def find_data_bar(pixels: Pixels) -> DataBar | None:
    """Find the bar in `(H, W)` or `(H, W, 3)` uint8: at most one, the bottom is searched first."""
    grey = pixels if pixels.ndim == 2 else pixels[..., 1]
    height, width = grey.shape
    sampled = grey[:, :: -(-width // MAX_COLUMNS)]
    depth = int(MAX_HEIGHT * height) + MAX_BORDER_ROWS + 1
    bottom = np.ascontiguousarray(sampled[: -depth - 1 : -1])
    top = np.ascontiguousarray(sampled[:depth])
    for bar_rows in (_opaque_rows, _translucent_rows):
        if rows := bar_rows(bottom, height):
            return DataBar("bottom", height - rows)
        if rows := bar_rows(top, height):
            return DataBar("top", rows)
    return None


def crop_data_bar(values: npt.NDArray[T], bar: DataBar) -> npt.NDArray[T]:
    """The micrograph without its bar: a view of `values`, of any depth."""
    return values[: bar.row] if bar.edge == "bottom" else values[bar.row :]


def _opaque_rows(band: Pixels, height: int) -> int:
    """The number of rows at the start of `band` (outermost row first) that are a bar, or 0."""
    background = int(np.bincount(band[: _least_rows(height)].ravel()).argmax())
    flat = _near(band, background, RINGING)
    straight = _share(flat[:-BORDER] & ~flat[BORDER:])
    cover = np.cumsum(_share(flat)) / np.arange(1, len(flat) + 1)
    for rows in _candidates((straight >= MIN_STRAIGHT) & (cover[:-BORDER] >= MIN_FLAT), height):
        bar = band[:rows]
        exact = _near(bar, background, ROUNDING)
        spans = (flat[:rows].mean(axis=0) >= MIN_COLUMN_FLAT).mean() >= MIN_WIDTH
        labelled = spans and _has_glyphs(_steps_along_rows(bar) > GLYPH_CONTRAST)
        sharp = (flat[rows - 1] & ~flat[rows]).mean() >= CLEAR_STRAIGHT
        clear = sharp and rows >= CLEAR_HEIGHT * height
        if (labelled and exact[-RIM_ROWS:].mean() >= MIN_RIM_EXACT) or (
            clear and exact.mean() >= MIN_BLANK_EXACT
        ):
            return rows + _border_rows(band[rows:])
    return 0


def _translucent_rows(band: Pixels, height: int) -> int:
    """As `_opaque_rows`, for a translucent bar."""
    levels = band.astype(np.int16)
    steps = levels[1:] - levels[:-1]
    straight = np.maximum(_share(steps > RINGING), _share(steps < -RINGING))
    for rows in _candidates(straight >= CLEAR_STRAIGHT, height):
        if rows >= CLEAR_HEIGHT * height and _is_veil(levels[:rows], levels[rows:]):
            return rows
    return 0


def _candidates(fits: npt.NDArray[np.bool_], height: int) -> Iterator[int]:
    """Possible heights of a bar in rows: those whose innermost row fits.

    The highest first: a bar may have lines across.
    """
    allowed = np.flatnonzero(fits[: int(MAX_HEIGHT * height)]) + 1
    return (int(rows) for rows in allowed[::-1] if rows >= _least_rows(height))


def _least_rows(height: int) -> int:
    return max(MIN_ROWS, round(MIN_HEIGHT * height))


def _is_veil(bar: npt.NDArray[np.int16], beyond: npt.NDArray[np.int16]) -> bool:
    """Whether the dimmed micrograph continues in the bar, under glyphs of more contrast."""
    low, middle, high = np.percentile(bar[-RIM_ROWS:], (10, 50, 90))
    low_beyond, middle_beyond, high_beyond = np.percentile(beyond[:RIM_ROWS], (10, 50, 90))
    kept = (high - low) / max(high_beyond - low_beyond, 1)
    if not MIN_KEPT <= kept <= MAX_KEPT:
        return False
    black = middle - kept * middle_beyond  # as the veil maps it
    glyphs = (bar < black - 2 * RINGING) | (bar > black + kept * 255 + 2 * RINGING)
    if not _has_glyphs(glyphs[:, 1:] != glyphs[:, :-1]):
        return False
    inside, outside = bar[-2:].mean(0), beyond[:2].mean(0)  # two rows: half the noise
    if inside.std() == 0 or outside.std() == 0:
        return False
    return bool(np.corrcoef(inside, outside)[0, 1] >= MIN_CONTINUITY)


def _has_glyphs(edges: npt.NDArray[np.bool_]) -> bool:
    """Whether there is text or a scale; the lines of a frame have no edges along a row."""
    busy = np.count_nonzero(edges[:-RIM_ROWS], axis=1) >= MIN_GLYPH_EDGES
    return bool(np.count_nonzero(busy) >= MIN_GLYPH_ROWS)


def _steps_along_rows(bar: Pixels) -> Pixels:
    return np.maximum(bar[:, 1:], bar[:, :-1]) - np.minimum(bar[:, 1:], bar[:, :-1])


def _border_rows(beyond: Pixels) -> int:
    """The rows of the line between bar and micrograph, or 0."""
    grey = int(np.median(beyond[0]))
    line = _near(beyond[: MAX_BORDER_ROWS + 1], grey, RINGING)
    for rows in range(len(line) - 1, 0, -1):
        ends = (line[rows - 1] & ~line[rows]).mean() >= MIN_STRAIGHT
        if ends and line[:rows].mean() >= MIN_UNIFORM:
            return rows
    return 0


def _near(values: Pixels, grey: int, levels: int) -> npt.NDArray[np.bool_]:
    return (values >= max(grey - levels, 0)) & (values <= min(grey + levels, 255))


def _share(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The share of true columns, per row."""
    shares: npt.NDArray[np.float64] = flags.mean(axis=1)
    return shares
