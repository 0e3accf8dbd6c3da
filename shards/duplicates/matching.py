"""Decide from their fingerprints whether two images overlap, for many pairs at once.

Three tests, each against another kind of error. Enough keypoints must match and agree on one shift,
scale and small rotation. Most of the matches inside the shared area must agree: in a periodic
structure they do not. And the thumbnails must correlate block by block over the shared area, every
block with the same weight: equal data bars, scale bars and panel letters fill only a few.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from micrograph.cli import cores
from shards.duplicates.fingerprint import (
    KEYPOINT_UNIT,
    KEYPOINTS,
    LEVEL_RATIO,
    THUMBNAIL_SIDE,
    Fingerprints,
    base_scale,
)

MIN_MATCHES = 4  # a shift, scale and rotation follow from two
MIN_AGREEMENT = 0.5  # of the matches inside the shared area
MIN_SCORE = 0.5  # mean correlation of the blocks; distinct images with equal data bars reach 0.45
MIN_EVIDENCE = 3.8  # matches times score: the fewer keypoints match, the better the image must
MIN_OVERLAP_FRACTION = 0.2  # of the finer image: a dozen blocks to correlate
MAX_SCALE = 3.0  # between the base images
MAX_ROTATION = np.deg2rad(12)  # descriptors do not survive more

# The second image in the first, in pixels of each: first = scale * rotation(second) + (x, y).
OVERLAP = np.dtype(
    [
        ("first", "<i8"),
        ("second", "<i8"),
        ("x", "<f4"),
        ("y", "<f4"),
        ("scale", "<f4"),  # pixels of the first per pixel of the second
        ("rotation", "<f4"),  # radians
        ("overlap_fraction", "<f4"),  # of the first image's area or of the second's, the larger
        ("matches", "<i2"),
        ("score", "<f4"),
    ]
)

T = TypeVar("T", bound=np.generic)
_Bools = npt.NDArray[np.bool_]
_Ints = npt.NDArray[np.int64]
_Reals = npt.NDArray[np.float64]
_Singles = npt.NDArray[np.float32]
_Complex = npt.NDArray[np.complexfloating[Any, Any]]

_CHUNK = 128  # pairs at a time: 10 MB of descriptor distances, about what a cache holds
_MAX_DISTANCE = 16  # differing bits of 64; descriptors of unlike keypoints differ in 32 +- 4
_TOLERANCE = 3.0  # pixels of the base image, 2.3 % of its side
_LEVEL_TOLERANCE = 0.13  # of a distance: half a step of LEVEL_RATIO
_ONE_LEVEL = 1.01 / LEVEL_RATIO
_BLOCK = 8  # pixels of a thumbnail


@dataclass(frozen=True, slots=True)
class _Matches:
    """Of N pairs, up to M matches each: (N, M). Positions are x + i y in the base images."""

    here: _Complex
    there: _Complex
    scale: npt.NDArray[np.float32]  # here over there, as the levels of the two keypoints say
    valid: _Bools

    def of(self, rows: _Bools) -> "_Matches":
        return _Matches(self.here[rows], self.there[rows], self.scale[rows], self.valid[rows])


def find_overlaps(fingerprints: Fingerprints, first: _Ints, second: _Ints) -> npt.NDArray[np.void]:
    """The pairs that overlap, as OVERLAP records in the order given."""

    fingerprints = np.asarray(fingerprints)  # a memmap's own indexing costs a tenth of the time

    def check(start: int) -> npt.NDArray[np.void]:
        return _check(fingerprints, first[start : start + _CHUNK], second[start : start + _CHUNK])

    with ThreadPoolExecutor(cores()) as pool:  # numpy frees the lock for most of the work
        found = list(pool.map(check, range(0, len(first), _CHUNK)))
    return np.concatenate([np.zeros(0, OVERLAP), *found])


def _check(fingerprints: Fingerprints, first: _Ints, second: _Ints) -> npt.NDArray[np.void]:
    matches = _match(fingerprints, first, second)
    rows = matches.valid.sum(1) >= MIN_MATCHES
    first, second, matches = first[rows], second[rows], matches.of(rows)
    agreed = _vote(matches)
    factor, offset, agreed = _refine(matches, agreed)
    shared = matches.valid & _inside((matches.here - offset) / factor, fingerprints, second)
    shared &= _inside(factor * matches.there + offset, fingerprints, first)
    scale, rotation = np.abs(factor[:, 0]), np.angle(factor[:, 0])
    rows = agreed.sum(1) >= np.maximum(MIN_MATCHES, MIN_AGREEMENT * shared.sum(1))
    rows &= (scale <= MAX_SCALE) & (scale * MAX_SCALE >= 1) & (np.abs(rotation) <= MAX_ROTATION)
    first, second, factor, offset = first[rows], second[rows], factor[rows, 0], offset[rows, 0]
    overlaps = _to_image_pixels(fingerprints, first, second, factor, offset)
    overlaps["matches"] = agreed[rows].sum(1)
    score, fraction = _correlate(fingerprints, first, second, factor, offset)
    overlaps["score"], overlaps["overlap_fraction"] = score, fraction
    sure = (score >= MIN_SCORE) & (fraction >= MIN_OVERLAP_FRACTION)
    return overlaps[sure & (overlaps["matches"] * score >= MIN_EVIDENCE)]


def _match(fingerprints: Fingerprints, first: _Ints, second: _Ints) -> _Matches:
    """Keypoints of the two images whose descriptors are each other's nearest, and near."""
    a, b = fingerprints["descriptors"][first], fingerprints["descriptors"][second]
    distance = np.bitwise_count(a[:, :, None] ^ b[:, None, :])
    # Few; and flat, which takes a tenth of the time of np.nonzero in three dimensions.
    near = np.flatnonzero(distance <= _MAX_DISTANCE)
    pair, here, there = np.unravel_index(near, distance.shape)
    real = here < fingerprints["count"][first][pair]
    real &= there < fingerprints["count"][second][pair]
    pair, here, there = pair[real], here[real], there[real]
    apart = distance[pair, here, there]
    mutual = _nearest(pair * KEYPOINTS + here, apart) & _nearest(pair * KEYPOINTS + there, apart)
    pair, here, there = pair[mutual], here[mutual], there[mutual]
    counts = np.bincount(pair, minlength=len(first))
    column = np.arange(len(pair)) - (np.cumsum(counts) - counts)[pair]
    table = np.zeros((2, len(first), counts.max(initial=0)), np.int64)
    table[:, pair, column] = here, there
    steps = _levels(fingerprints, first, table[0]) - _levels(fingerprints, second, table[1])
    return _Matches(
        here=_positions(fingerprints, first, table[0]),
        there=_positions(fingerprints, second, table[1]),
        scale=LEVEL_RATIO ** -steps.astype(np.float32),
        valid=np.asarray(np.arange(table.shape[2]) < counts[:, None]),
    )


def _nearest(group: _Ints, distance: npt.NDArray[np.uint8]) -> _Bools:
    """Mark the member of each group with the least distance, the first of equals."""
    order = np.lexsort((distance, group))
    leads = np.diff(group[order], prepend=-1) != 0
    nearest = np.zeros(len(group), np.bool_)
    nearest[order[leads]] = True
    return nearest


def _vote(matches: _Matches) -> _Bools:
    """The matches that agree with that match with which the most agree.

    One match fixes the shift, and through the levels of its two keypoints roughly the scale.
    """
    here, there, scale, valid = matches.here, matches.there, matches.scale, matches.valid
    here_apart = here[:, None, :] - here[:, :, None]
    there_apart = there[:, None, :] - there[:, :, None]
    error = np.abs(here_apart - scale[:, :, None] * there_apart)
    agree = error < _TOLERANCE + _LEVEL_TOLERANCE * np.abs(here_apart)
    ratio = scale[:, None, :] / scale[:, :, None]
    agree &= (ratio < _ONE_LEVEL) & (ratio * _ONE_LEVEL > 1)
    agree &= valid[:, None, :] & valid[:, :, None]
    most = agree.sum(2).argmax(1)
    return np.take_along_axis(agree, most[:, None, None], 1)[:, 0]


def _refine(matches: _Matches, agreed: _Bools) -> tuple[_Complex, _Complex, _Bools]:
    """Fit here = factor * there + offset in complex numbers, and keep who fits, ever closer."""
    for looseness in (3.0, 1.5, 1.0, 1.0):
        factor, offset = _fit(matches.here, matches.there, agreed)
        error = np.abs(matches.here - factor * matches.there - offset)
        agreed = matches.valid & (error < looseness * _TOLERANCE)
    return factor, offset, agreed


def _fit(here: _Complex, there: _Complex, weight: _Bools) -> tuple[_Complex, _Complex]:
    """Least squares over the marked keypoints; the argument of the factor is the rotation."""
    count = np.maximum(weight.sum(1, keepdims=True), 1)
    here_mean = (here * weight).sum(1, keepdims=True) / count
    there_mean = (there * weight).sum(1, keepdims=True) / count
    apart = (there - there_mean) * weight
    spread = np.maximum((np.abs(apart) ** 2).sum(1, keepdims=True), 1e-6)
    factor = ((here - here_mean) * apart.conj()).sum(1, keepdims=True) / spread
    factor = np.where(np.abs(factor) < 1e-3, 1e-3, factor)  # all at one point: rejected later
    return factor, here_mean - factor * there_mean


def _correlate(
    fingerprints: Fingerprints, first: _Ints, second: _Ints, factor: _Complex, offset: _Complex
) -> tuple[_Singles, _Reals]:
    """Mean correlation of the blocks of the shared area, and its fraction of the finer image.

    The image with the larger scale is the frame; the other one is drawn into it.
    """
    larger = np.abs(factor) >= 1
    frame, other = np.where(larger, first, second), np.where(larger, second, first)
    offset = np.where(larger, offset, -offset / factor)
    factor = np.where(larger, factor, 1 / factor)
    ticks = (np.arange(THUMBNAIL_SIDE) + 0.5) / THUMBNAIL_SIDE
    grid = ticks + 1j * ticks[:, None]
    width, height = (size[..., None] for size in _base_size(fingerprints, frame))
    points = grid.real * width + 1j * grid.imag * height
    points = (points - offset[:, None, None]) / factor[:, None, None]
    width, height = (size[..., None] for size in _base_size(fingerprints, other))
    x = points.real / width * THUMBNAIL_SIDE - 0.5
    y = points.imag / height * THUMBNAIL_SIDE - 0.5
    limit = THUMBNAIL_SIDE - 0.5
    shared = (x >= -0.5) & (x <= limit) & (y >= -0.5) & (y <= limit)
    drawn = _interpolate(fingerprints["thumbnail"][other], x, y)
    score = _block_score(fingerprints["thumbnail"][frame].astype(np.float32), drawn, shared)
    return score, shared.mean((1, 2))


def _interpolate(images: npt.NDArray[np.uint8], x: _Reals, y: _Reals) -> _Singles:
    """Bilinear; outside, the nearest pixel."""
    x, y = np.clip(x, 0, THUMBNAIL_SIDE - 1.001), np.clip(y, 0, THUMBNAIL_SIDE - 1.001)
    column, row = x.astype(np.int32), y.astype(np.int32)
    dx, dy = (x - column).astype(np.float32), (y - row).astype(np.float32)
    n = np.arange(len(images), dtype=np.int32)[:, None, None]
    place = (n * THUMBNAIL_SIDE + row) * THUMBNAIL_SIDE + column
    pixels = images.ravel()

    def at(offset: int) -> _Singles:
        return pixels.take(place + offset).astype(np.float32)

    above, below = at(0), at(THUMBNAIL_SIDE)
    above += (at(1) - above) * dx
    below += (at(THUMBNAIL_SIDE + 1) - below) * dx
    above += (below - above) * dy
    return above


def _block_score(a: _Singles, b: _Singles, shared: _Bools) -> _Singles:
    """The mean over the blocks of their correlation, blocks of little texture counting less.

    None counts more than the median one, however strong its contrast.
    """
    whole = _blocks(shared).all(2)
    a, b = _blocks(a), _blocks(b)
    a, b = a - a.mean(2, keepdims=True), b - b.mean(2, keepdims=True)
    texture = np.sqrt((a**2).mean(2) * (b**2).mean(2))
    correlation = (a * b).mean(2) / np.maximum(texture, 1e-3)
    ordered = np.sort(np.where(whole, texture, np.inf), axis=1)
    middle = np.maximum(whole.sum(1, keepdims=True) - 1, 0) // 2
    usual = np.take_along_axis(ordered, middle, 1)
    weight = whole * np.minimum(texture / np.maximum(usual, 1e-3), 1)
    return np.asarray((weight * correlation).sum(1) / np.maximum(weight.sum(1), 1e-3))


def _blocks(images: npt.NDArray[T]) -> npt.NDArray[T]:
    """(N, blocks, pixels of a block)"""
    rows = THUMBNAIL_SIDE // _BLOCK
    cut = images.reshape(-1, rows, _BLOCK, rows, _BLOCK).swapaxes(2, 3)
    return cut.reshape(-1, rows**2, _BLOCK**2)


def _to_image_pixels(
    fingerprints: Fingerprints, first: _Ints, second: _Ints, factor: _Complex, offset: _Complex
) -> npt.NDArray[np.void]:
    """From base images to the pixels of the images themselves."""
    overlaps = np.zeros(len(first), OVERLAP)
    scale = base_scale(fingerprints["height"][first], fingerprints["width"][first])
    other_scale = base_scale(fingerprints["height"][second], fingerprints["width"][second])
    overlaps["first"], overlaps["second"] = first, second
    overlaps["x"], overlaps["y"] = offset.real / scale, offset.imag / scale
    overlaps["scale"] = np.abs(factor) * other_scale / scale
    overlaps["rotation"] = np.angle(factor)
    return overlaps


def _levels(fingerprints: Fingerprints, which: _Ints, keypoint: _Ints) -> npt.NDArray[np.int8]:
    return np.asarray(fingerprints["levels"][which[:, None], keypoint], np.int8)


def _positions(fingerprints: Fingerprints, which: _Ints, keypoint: _Ints) -> _Complex:
    """x + i y in pixels of the base image."""
    xy = fingerprints["keypoints"][which[:, None], keypoint].astype(np.float32) / KEYPOINT_UNIT
    return np.asarray(xy[..., 0] + 1j * xy[..., 1], np.complex64)


def _base_size(fingerprints: Fingerprints, which: _Ints) -> tuple[_Reals, _Reals]:
    """Width and height, (N, 1) each."""
    height = fingerprints["height"][which, None].astype(np.float64)
    width = fingerprints["width"][which, None].astype(np.float64)
    scale = base_scale(height, width)
    return width * scale, height * scale


def _inside(points: _Complex, fingerprints: Fingerprints, which: _Ints) -> _Bools:
    width, height = _base_size(fingerprints, which)
    x, y = points.real, points.imag
    margin = _TOLERANCE  # nearer to the border, only one image may have a keypoint
    inside = (x > margin) & (x < width - margin) & (y > margin) & (y < height - margin)
    return np.asarray(inside)
