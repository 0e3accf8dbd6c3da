"""The fingerprint of an image for the search of near-duplicates (5 KB).

Up to 96 keypoints that a shifted, rescaled or recompressed copy has as well, each with a descriptor
of 64 bits, and a thumbnail. Keypoints are blobs by the determinant of the Hessian
(Lindeberg 1998, doi:10.1023/A:1008045108935) on a pyramid, spread over the image by adaptive
non-maximal suppression; their surroundings are 8 x 8 samples free of gain and offset, both as in
Brown, Szeliski and Winder 2005 (doi:10.1109/CVPR.2005.235). The bits are signs of their cosine
transform, lowest frequency first, so a prefix is a coarser descriptor.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.images.decode import Pixels

# Every image is scaled to this area, so that a rescaled copy becomes the same image again.
BASE_SIDE = 128  # as good as 192 on micrographs of known overlap, in two thirds of the time
LEVEL_RATIO = 2 ** (-1 / 3)  # 12 % off at worst, between two levels: a tenth of the bits change
KEYPOINTS_PER_LEVEL = (
    28,
    22,
    18,
    16,
    12,
)  # finest first; a crop shows coarse ones as fine
KEYPOINTS = sum(KEYPOINTS_PER_LEVEL)
KEYPOINT_UNIT = 16  # steps per pixel of the base image
DESCRIPTOR_BITS = 64
THUMBNAIL_SIDE = 64

FINGERPRINT = np.dtype(
    [
        ("height", "<u4"),
        ("width", "<u4"),
        ("count", "<u2"),  # of the keypoints; what follows them is zero
        ("levels", "u1", KEYPOINTS),
        ("keypoints", "<u2", (KEYPOINTS, 2)),  # x, y in 1 / KEYPOINT_UNIT pixels of the base image
        ("descriptors", "<u8", KEYPOINTS),
        ("thumbnail", "u1", (THUMBNAIL_SIDE, THUMBNAIL_SIDE)),
    ]
)
Fingerprints = npt.NDArray[np.void]  # of dtype FINGERPRINT, any shape

_Floats = npt.NDArray[np.float32]
_Ints = npt.NDArray[np.int64]
_Reals = npt.NDArray[np.float64]
_Levels = npt.NDArray[np.uint8]

_SAMPLES = 8  # along each axis of a patch
_SAMPLE_STEP = 3  # pixels of the level; a patch spans 22
_MARGIN = 12  # pixels between a keypoint and the border that its patch needs
_RIM, _NO_LEVEL = 2, 255
_CANDIDATES = 4  # strongest maxima per kept keypoint
_STRONGER = 0.9  # Brown et al.: a neighbour suppresses when it is clearly stronger
_HESSIAN_WEIGHT = 0.81  # of the mixed derivative: SURF's (0.9)^2 punishes edges less than 1 would
_GREY_STEPS = 16  # levels are kept in 1 / 16 grey values, whole numbers, see `_descriptors`
_THUMBNAIL_STD = 40.0  # grey values


def compute_fingerprint(pixels: Pixels) -> Fingerprints:
    """The fingerprint of one image, shape ().

    An image narrower than 32 pixels, once scaled to `BASE_SIDE`**2 pixels, gets no keypoints.
    """
    image = Image.fromarray(pixels)
    base = _base_image(image if image.mode == "L" else image.convert("L"))
    fingerprint = np.zeros((), FINGERPRINT)
    fingerprint["height"], fingerprint["width"] = pixels.shape[:2]
    fingerprint["thumbnail"] = _thumbnail(base)
    atlas = _atlas(base.width, base.height)
    if not atlas.boxes:
        return fingerprint
    smooth = _smooth(_levels(base, atlas), atlas)
    keypoints = _blobs(smooth, atlas)
    count = len(keypoints.level)
    fingerprint["count"] = count
    fingerprint["levels"][:count] = keypoints.level
    fingerprint["descriptors"][:count] = _descriptors(smooth, atlas, keypoints)
    for axis, (steps, side) in enumerate(((keypoints.x, base.width), (keypoints.y, base.height))):
        extent = atlas.sizes[keypoints.level, axis]
        position = (steps + 0.5) * side / extent
        fingerprint["keypoints"][:count, axis] = np.rint(position * KEYPOINT_UNIT)
    return fingerprint


def base_scale(height: npt.ArrayLike, width: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Pixels of the base image per pixel of the image."""
    area = np.asarray(height, np.float64) * np.asarray(width, np.float64)
    return np.asarray(BASE_SIDE / np.sqrt(area))


def _base_image(grey: Image.Image) -> Image.Image:
    scale = float(base_scale(grey.height, grey.width))
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    method = Image.Resampling.BILINEAR if scale < 1 else Image.Resampling.BICUBIC
    return grey.resize(size, method, reducing_gap=2.0).convert("F")


def _thumbnail(base: Image.Image) -> Pixels:
    """The whole image as a square, its contrast set, so that a faint one keeps its texture."""
    small = np.asarray(base.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR))
    gain = _THUMBNAIL_STD / max(float(small.std()), 1e-3)
    stretched = (small - float(small.mean())) * gain + 128
    return np.clip(np.rint(stretched), 0, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class _Atlas:
    """Where the levels of a base image lie, beside one another in one flat array.

    So each step is one pass over all of them. Around each are two mirrored pixels: what a pass
    carries from the end of one row into the next, or from level to level, stays in these.
    """

    row: int  # pixels
    rows: int
    boxes: tuple[tuple[slice, slice], ...]
    sizes: _Ints  # (levels, 2): width and height
    corners: _Ints  # (levels,): the first pixel of each
    rim: _Ints
    mirrored: _Ints  # the pixels that those of the rim repeat
    level_of: _Levels  # of the pixels that have a whole patch around; else _NO_LEVEL


@lru_cache(maxsize=64)  # the images of one microscope are of few sizes
def _atlas(width: int, height: int) -> _Atlas:
    sizes = [
        (max(1, round(width * LEVEL_RATIO**level)), max(1, round(height * LEVEL_RATIO**level)))
        for level in range(len(KEYPOINTS_PER_LEVEL))
    ]
    sizes = [size for size in sizes if min(size) >= 2 * _MARGIN + 8]
    tops, lefts = [_RIM] * len(sizes), [_RIM] * len(sizes)
    for level in range(1, len(sizes)):
        below = tops[level - 1] + sizes[level - 1][1] + 2 * _RIM
        if level > 1 and below + sizes[level][1] <= _RIM + height:  # there is room under the last
            tops[level], lefts[level] = below, lefts[level - 1]
        else:
            lefts[level] = lefts[level - 1] + sizes[level - 1][0] + 2 * _RIM
    row = max((left + size[0] + _RIM for left, size in zip(lefts, sizes, strict=True)), default=0)
    rows = height + 2 * _RIM
    number = np.arange(rows * row).reshape(rows, row)
    level_of = np.full((rows, row), _NO_LEVEL, np.uint8)
    boxes, rim, mirrored = [], [], []
    for level, (left, top, (across, down)) in enumerate(zip(lefts, tops, sizes, strict=True)):
        inside = number[top : top + down, left : left + across]
        framed = number[top - _RIM : top + down + _RIM, left - _RIM : left + across + _RIM]
        repeated = np.pad(inside, _RIM, mode="symmetric")
        outside = repeated != framed
        rim.append(framed[outside])
        mirrored.append(repeated[outside])
        boxes.append((slice(top, top + down), slice(left, left + across)))
        level_of[top + _MARGIN : top + down - _MARGIN, left + _MARGIN : left + across - _MARGIN] = (
            level
        )
    return _Atlas(
        row=row,
        rows=rows,
        boxes=tuple(boxes),
        sizes=np.array(sizes, np.int64).reshape(-1, 2),
        corners=np.array(tops, np.int64) * row + np.array(lefts, np.int64),
        rim=np.concatenate([np.zeros(0, np.int64), *rim]),
        mirrored=np.concatenate([np.zeros(0, np.int64), *mirrored]),
        level_of=level_of.ravel(),
    )


def _levels(base: Image.Image, atlas: _Atlas) -> _Floats:
    values = np.zeros((atlas.rows, atlas.row), np.float32)
    for level, (box, size) in enumerate(zip(atlas.boxes, atlas.sizes.tolist(), strict=True)):
        scaled = base if level == 0 else base.resize(tuple(size), Image.Resampling.BILINEAR)
        values[box] = np.asarray(scaled)
    values *= np.float32(_GREY_STEPS)
    return np.rint(values, out=values).ravel()


def _smooth(values: _Floats, atlas: _Atlas) -> _Floats:
    """Convolve with 1 4 6 4 1 along both axes: a Gaussian of sigma 1. Sets the rim of `values`."""
    values[atlas.rim] = values[atlas.mirrored]
    a = values
    for step in (1, atlas.row):
        for _ in range(4):  # 1 1, four times
            a = a[:-step] + a[step:]
    smooth = np.zeros_like(values)
    start = 2 * (1 + atlas.row)
    np.multiply(a, np.float32(1 / 256), out=smooth[start : start + len(a)])
    return smooth


@dataclass(frozen=True, slots=True)
class _Keypoints:
    """(N,) each. Positions are in pixels of the level."""

    level: _Levels
    x: _Reals
    y: _Reals
    dark: npt.NDArray[np.bool_]


def _blobs(smooth: _Floats, atlas: _Atlas) -> _Keypoints:
    """On each level, up to its number of blobs, strong and far from stronger ones."""
    row = atlas.row
    start = 2 * (1 + row)

    def at(right: int, down: int) -> _Floats:
        """The image shifted by two pixels at most."""
        first = start + down * row + right
        return smooth[first : len(smooth) - 2 * start + first]

    centre = 2 * at(0, 0)
    xx = at(2, 0) + at(-2, 0) - centre
    yy = at(0, 2) + at(0, -2) - centre
    xy = at(2, 2) + at(-2, -2) - at(-2, 2) - at(2, -2)
    xy *= np.float32(0.25)
    response = xx * yy - np.float32(_HESSIAN_WEIGHT) * xy * xy
    found, level = _maxima(response, atlas.level_of[start : len(smooth) - start], row)
    y, x = np.divmod(found + start - atlas.corners[level], row)
    kept = _spread(response[found], x, y, level)
    found, level, x, y = found[kept], level[kept], x[kept], y[kept]
    return _Keypoints(
        level=level,
        x=x + _peak(response, found, 1),
        y=y + _peak(response, found, row),
        dark=xx[found] + yy[found] > 0,
    )


def _maxima(response: _Floats, level_of: _Levels, row: int) -> tuple[_Ints, _Levels]:
    """Where a pixel is as high as the eight around it, and positive; and the level there."""
    across = np.maximum(np.maximum(response[:-2], response[1:-1]), response[2:])
    highest = np.maximum(np.maximum(across[: -2 * row], across[row:-row]), across[2 * row :])
    inner = response[1 + row : -1 - row]
    level_of = level_of[1 + row : -1 - row]
    found = np.flatnonzero((inner >= highest) & (level_of != _NO_LEVEL))
    found = found[inner[found] > 0]
    return found + (1 + row), level_of[found]


def _spread(strength: _Floats, x: _Ints, y: _Ints, level: _Levels) -> _Ints:
    """The maxima that are farthest from a stronger one (adaptive non-maximal suppression)."""
    kept = []
    for number, quota in enumerate(KEYPOINTS_PER_LEVEL):
        mine = np.flatnonzero(level == number)
        mine = mine[np.argsort(-strength[mine], kind="stable")[: quota * _CANDIDATES]]
        # Exact: whole numbers below 2^24, also when squared.
        across, down = x[mine].astype(np.float32), y[mine].astype(np.float32)
        distance = (down[:, None] - down) ** 2 + (across[:, None] - across) ** 2
        high = strength[mine]
        suppressed = high[:, None] < np.float32(_STRONGER) * high
        radius = np.where(suppressed, distance, np.float32(np.inf)).min(1, initial=np.inf)
        kept.append(mine[np.argsort(-radius, kind="stable")[:quota]])
    return np.concatenate(kept)


def _peak(response: _Floats, found: _Ints, step: int) -> _Floats:
    """How far along `step` the top of a parabola through three values lies, at most half."""
    before, here, after = response[found - step], response[found], response[found + step]
    bend = 2 * here - before - after
    offset: _Floats = (after - before) / np.maximum(2 * bend, np.float32(1e-6))
    return np.clip(offset, np.float32(-0.5), np.float32(0.5))


def _descriptors(smooth: _Floats, atlas: _Atlas, keypoints: _Keypoints) -> npt.NDArray[np.uint64]:
    """One bit says dark or bright, 63 are the signs of the patch's cosine coefficients."""
    row = atlas.row
    corners = _smooth(smooth, atlas)
    corners = corners[row:] + corners[:-row]
    corners = np.rint(corners[1:] + corners[:-1])  # between pixels, where samples lie
    steps = np.arange(_SAMPLES) * _SAMPLE_STEP - (_SAMPLES * _SAMPLE_STEP - 2) // 2
    x, y = (np.rint(along).astype(np.int64) for along in (keypoints.x, keypoints.y))
    centres = atlas.corners[keypoints.level] + y * row + x
    patches = corners[centres[:, None] + (steps[:, None] * row + steps).ravel()]
    # Whole numbers in float64 add up exactly in any order, so a sign is the same on every machine.
    coefficients = patches.astype(np.float64) @ _COSINES
    bits = np.concatenate([keypoints.dark[:, None], coefficients > 0], axis=1)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def _cosines() -> npt.NDArray[np.float64]:
    """(64 samples, 63 frequencies) of the two-dimensional DCT, rounded to whole numbers."""
    angle = np.outer(np.arange(_SAMPLES), 2 * np.arange(_SAMPLES) + 1) * np.pi / (2 * _SAMPLES)
    wave = np.rint(np.cos(angle) * 64)
    order = sorted(
        ((v, u) for v in range(_SAMPLES) for u in range(_SAMPLES) if u + v > 0),
        key=lambda vu: (vu[0] ** 2 + vu[1] ** 2, vu),
    )
    return np.stack([np.outer(wave[v], wave[u]).ravel() for v, u in order], axis=1)


_COSINES = _cosines()
