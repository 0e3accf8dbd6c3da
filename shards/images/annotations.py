"""Find annotations burnt into a micrograph: scale bars, dimension lines, labels, panel letters.

An annotation is white, black or a saturated colour, and most of its edges are at most two pixels
wide. Clipped particles and pores have such values too, but their edges fade or are ragged. A mark
also needs a drawn shape: a straight line, letters in a row; or, where nothing else is clipped, any
stroke. What fits only in part does not count. The data bar, which is text too, is cropped before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.images.components import components, numbered
from shards.images.decode import Pixels

# Four measured distances with their numbers have more. Of 58 figures with a scale bar, its label
# and a panel letter, 57 have fewer (about 12); the other has a line of text as well.
MANY_MARKS = 25
MAX_BOXES = 16

TONE = 12  # grey levels from the extreme: JPEG at quality 85 leaves most of a stroke within
MIN_STEP = 48  # grey levels over the edge of a mark
REACH = 2  # pixels outwards, over which that is; smooth letters end so fast, clipped rims do not
MIN_SHARP = 0.65  # of a mark's edge; letters close to bright particles lose some
MIN_SEEN = 0.9  # of a mark's edge lies inside the image
MIN_SIZE = 5  # pixels, the longer side; the smallest legible letters are so high
MAX_THICKNESS = 1 / 24  # of the image's shorter side; black crystals with sharp rims are thicker
MAX_SPAN = 0.9  # of the image's side; what is longer is a frame or a scanning margin

MIN_LINE, MIN_SLENDER = 24, 8  # pixels; length over thickness
MIN_FILL = 0.7  # of its box, by a line along a row or a column; its rim may be smooth
MIN_LETTER = 10  # pixels, of a letter that stands alone
VERY_SHARP = 0.85  # of its edge, and of the edge of a bar among clipped particles
MIN_BAR = 1 / 16  # of the image's shorter side, such a bar
MIN_OUTLINE, VERY_SLENDER = 1 / 6, 16  # the same of any line, which may be bent
LETTER_TOLERANCE = 0.15  # of the height, between letters in a row
MIN_PURE = 0.5  # of all edges of an extreme near a drawing
MIN_SHAPED = 0.5  # of the marks near one another are lines, or have a letter beside
CLEAN = 0.9  # of all edges of an extreme, where neither of these is asked for
NEAR, MAX_NEAR = 0.75, 1 / 20  # of a mark's longer side; of the image's shorter side

# Where much is clipped, and in images of two greys, micrographs look like annotations.
MAX_CLIPPED, MAX_TWO_TONED = 0.12, 0.6  # of the image has one extreme; has any
# Noise at the end of the range takes long, and has no annotations.
MAX_RUNS, MIN_RUNS = 0.005, 4000  # per pixel; allowed in any image
MAX_CANDIDATES = 500

COARSE_SIDE, MAX_STEP = 400, 3  # pixels of the shorter side that are kept, at least

STRIP = 100_000  # pixels processed at once: they fit into the cache

Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Rim = tuple[Counts, Counts, Counts, Counts]  # pixels at the left, right, upper and lower sides
NO_RIM = (np.zeros(0, np.int64),) * 4
OUTWARDS = ((0, -1), (0, 1), (-1, 0), (1, 0))  # rows, columns


@dataclass(frozen=True, slots=True)
class Annotations:
    """The annotations of an image."""

    marks: int  # connected strokes, letters and outlines
    share: float  # of the image's pixels
    boxes: tuple[tuple[int, int, int, int], ...]  # top, left, bottom, right; the largest first


def find_annotations(pixels: Pixels) -> Annotations | None:
    """Find the marks in `(H, W)` or `(H, W, 3)` uint8; None where there are none.

    Annotations of large images are large: there only every second or third pixel is used.
    """
    step = max(1, min(min(pixels.shape[:2]) // COARSE_SIDE, MAX_STEP))
    pixels = np.ascontiguousarray(pixels[::step, ::step])
    height, width = pixels.shape[:2]
    rims = list(zip(*_strips(pixels), strict=True))
    clipped = [_area(strips) / (height * width) for strips in rims]
    if sum(clipped) > MAX_TWO_TONED:
        return None
    found = []
    for extreme, strips in enumerate(rims):  # white, black, colour
        regions = _regions(strips, pixels, extreme) if clipped[extreme] <= MAX_CLIPPED else None
        if regions is not None:
            found.append(_drawn(regions, height, width))
    boxes = np.concatenate([np.zeros((0, 4), np.int64), *(boxes for boxes, _ in found)])
    if not len(boxes):
        return None
    groups = _groups(boxes, min(height, width))
    joined = [boxes[groups == group] for group in range(groups.max() + 1)]
    spans = [(*box[:, :2].min(axis=0).tolist(), *box[:, 2:].max(axis=0).tolist()) for box in joined]
    spans = [(t * step, le * step, b * step, r * step) for t, le, b, r in spans]
    spans.sort(key=lambda box: (-(box[2] - box[0]) * (box[3] - box[1]), box))
    share = sum(area for _, area in found) / (height * width)
    return Annotations(len(boxes), share, tuple(spans[:MAX_BOXES]))


def _strips(pixels: Pixels) -> Iterator[list[Rim]]:
    """The rims of the regions, per strip of rows and extreme."""
    height, width = pixels.shape[:2]
    rows = max(STRIP // width, 1)
    for top in range(0, height, rows):
        first, last = max(top - 1, 0), min(top + rows + 1, height)
        core = min(rows, height - top)
        window = np.s_[1 + first - top : 1 + last - top, 1:-1]
        yield [
            _rim(plane, window, (core + 2, width + 2), top) for plane in _planes(pixels[first:last])
        ]


def _planes(pixels: Pixels) -> Iterator[Pixels]:
    """Marks in white, black or a colour are bright in one of these."""
    if pixels.ndim == 2:
        yield pixels
        yield ~pixels
        return
    red, green, blue = (np.ascontiguousarray(pixels[..., channel]) for channel in range(3))
    highest = np.maximum(np.maximum(red, green), blue)
    lowest = np.minimum(np.minimum(red, green), blue)
    yield lowest
    yield ~highest
    yield 2 * np.minimum(highest - lowest, 127)  # JPEG halves the colour's resolution and depth


def _rim(plane: Pixels, window: tuple[slice, slice], shape: tuple[int, int], top: int) -> Rim:
    """Positions of the left, right, upper and lower edges, in the image with a 1-px margin."""
    extreme = plane >= 255 - TONE
    if not extreme.any():
        return NO_RIM
    margined = np.zeros(shape, np.bool_)  # it separates the rows, which are searched as one line
    margined[window] = extreme
    flat, row = margined.ravel(), shape[1]
    outwards = (-1, 1, -row, row)
    core = flat[row:-row]
    inner = np.logical_and.reduce([flat[row + step : len(flat) - row + step] for step in outwards])
    rim = np.flatnonzero(core > inner) + row
    left, right, upper, lower = (rim[~flat[rim + step]] + top * row for step in outwards)
    return left, right, upper, lower


@dataclass(frozen=True, slots=True)
class _Regions:
    """The connected regions of one extreme, `(n,)` each."""

    boxes: Counts  # (n, 4)
    areas: Floats
    edges: Floats  # sides of pixels, those at the image's border included
    seen: Floats  # of the edges, those inside the image
    sharp: Floats  # of the edges, those with a step

    def share_sharp(self) -> Floats:
        return self.sharp / np.maximum(self.seen, 1)


def _area(strips: Sequence[Rim]) -> int:
    return sum(int((right - left + 1).sum()) for left, right, _, _ in strips)


def _regions(rims: Sequence[Rim], pixels: Pixels, extreme: int) -> _Regions | None:
    """All regions; None where none has two sharp sides, or where there are too many."""
    height, width = pixels.shape[:2]
    if not 0 < sum(len(rim[0]) for rim in rims) <= max(MIN_RUNS, MAX_RUNS * height * width):
        return None
    sides = [np.concatenate(side) for side in zip(*rims, strict=True)]
    left, right, upper, lower = sides
    places = [(side // (width + 2) - 1, side % (width + 2) - 1) for side in sides]

    def sharp(rows: Counts, columns: Counts, down: int, across: int) -> Flags:
        beyond = [
            pixels[
                (rows + step * down).clip(0, height - 1),
                (columns + step * across).clip(0, width - 1),
            ]
            for step in range(1, REACH + 1)
        ]
        levels = list(_planes(np.stack(beyond)))[extreme].min(axis=0)
        flags: Flags = levels <= 255 - MIN_STEP
        return flags

    steps = [sharp(*place, *outwards) for place, outwards in zip(places, OUTWARDS, strict=True)]
    if not (steps[0] & steps[1]).any():
        return None
    run = _connected(left, right, width + 2)
    owners = [run, run, *(run[np.searchsorted(left, edge, "right") - 1] for edge in (upper, lower))]
    rows, first, last = places[0][0], places[0][1], places[1][1]
    seen = [first > 0, last < width - 1, places[2][0] > 0, places[3][0] < height - 1]

    def total(flags: Sequence[Flags]) -> Floats:
        owner = [owner[chosen] for owner, chosen in zip(owners, flags, strict=True)]
        return np.bincount(np.concatenate(owner), minlength=run.max() + 1).astype(np.float64)

    order = np.argsort(run, kind="stable")
    heads = np.flatnonzero(np.diff(run[order], prepend=-1))
    boxes = [
        np.minimum.reduceat(rows[order], heads),
        np.minimum.reduceat(first[order], heads),
        np.maximum.reduceat(rows[order], heads) + 1,
        np.maximum.reduceat(last[order], heads) + 1,
    ]
    return _Regions(
        boxes=np.stack(boxes, axis=1),
        areas=np.bincount(run, right - left + 1).astype(np.float64),
        edges=total([np.ones(len(owner), np.bool_) for owner in owners]),
        seen=total(seen),
        sharp=total(steps),
    )


def _connected(left: Counts, right: Counts, row: int) -> Counts:
    """The region of each run of pixels; runs that touch at a corner are of one."""
    first = np.searchsorted(right, left + row - 1, "left")
    count = np.searchsorted(left, right + row + 1, "right") - first
    upper = np.repeat(np.arange(len(left)), count)
    lower = np.arange(len(upper)) + np.repeat(first - np.cumsum(count) + count, count)
    return numbered(components(len(left), upper, lower))


def _drawn(regions: _Regions, height: int, width: int) -> tuple[Counts, float]:
    """The boxes of the regions that are marks, and their total area."""
    side = min(height, width)
    size = (regions.boxes[:, 2:] - regions.boxes[:, :2]).astype(np.float64)
    long, thickness = size.max(axis=1), 2 * regions.areas / regions.edges
    share = regions.share_sharp()
    fits = (
        (share >= MIN_SHARP)
        & (regions.seen >= MIN_SEEN * regions.edges)
        & (long >= MIN_SIZE)
        & (thickness <= max(MAX_THICKNESS * side, 3))
        & (size < MAX_SPAN * np.array([height, width])).all(axis=1)
    )
    if np.count_nonzero(fits) > MAX_CANDIDATES:
        return regions.boxes[:0], 0.0
    boxes, areas, sharp = regions.boxes[fits], regions.areas[fits], regions.sharp[fits]
    lines = (long[fits] >= MIN_LINE) & (thickness[fits] * MIN_SLENDER <= long[fits])
    beside = _beside(boxes)
    follows, precedes = beside.any(axis=0), beside.any(axis=1)
    bars = lines & (areas >= MIN_FILL * size[fits].prod(axis=1))
    slender = (long[fits] >= MIN_OUTLINE * side) & (thickness[fits] * VERY_SLENDER <= long[fits])
    certain = (follows & precedes) | bars | (slender & (share[fits] >= VERY_SHARP))
    against = np.where(share < MIN_SHARP, regions.seen, 0)  # edges of what is no mark
    seen = regions.seen[fits]
    shaped = lines | follows | precedes
    if sharp.sum() >= CLEAN * (seen.sum() + against.sum()):
        certain |= shaped | ((long[fits] >= MIN_LETTER) & (share[fits] >= VERY_SHARP))
        shaped[:] = True
    accepted = bars & (share[fits] >= VERY_SHARP) & (long[fits] >= MIN_BAR * side)
    groups = _groups(boxes, side)
    for group in np.unique(groups[certain]):
        members = groups == group
        near = _touch(_grown(boxes[members], side), regions.boxes).any(axis=0)
        edges = seen[members].sum() + against[near].sum()
        pure = sharp[members].sum() >= MIN_PURE * edges
        accepted |= members & (pure and shaped[members].mean() >= MIN_SHAPED)
    return boxes[accepted], float(areas[accepted].sum())


def _beside(boxes: Counts) -> Flags:
    """`(n, n)`: whether one is as high as another, and follows it in a row as letters do."""
    top, left, bottom, right = boxes.T
    height = (bottom - top)[:, None]
    slack = np.maximum(LETTER_TOLERANCE * height, 1)
    gap = left - right[:, None]
    apart = np.maximum(abs(bottom - bottom[:, None]), abs(top - top[:, None]))
    flags: Flags = (apart <= slack) & (gap >= 0) & (gap <= height) & (height >= MIN_SIZE)
    return flags


def _groups(boxes: Counts, side: int) -> Counts:
    """The number of the group of each box: those near one another."""
    return numbered(components(len(boxes), *np.nonzero(_touch(_grown(boxes, side), boxes))))


def _grown(boxes: Counts, side: int) -> Floats:
    reach = np.minimum(NEAR * (boxes[:, 2:] - boxes[:, :2]).max(axis=1), MAX_NEAR * side)
    grown: Floats = boxes + reach[:, None] * np.array([-1, -1, 1, 1])
    return grown


def _touch(boxes: Floats, others: Counts) -> Flags:
    """`(n, m)`: which boxes share a pixel or a border with which others."""
    one, two = boxes[:, None], others[None]
    flags: Flags = np.all((one[..., :2] <= two[..., 2:]) & (two[..., :2] <= one[..., 2:]), axis=-1)
    return flags
