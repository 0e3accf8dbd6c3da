"""Do two images show the same place? Decided from their fingerprints, for many pairs at once.

Three tests, each for another way to be wrong. Enough places must match and agree on one shift,
scale and small turn. Of the matches inside the shared area most must agree: in a periodic structure
they point everywhere. And the thumbnails must correlate block by block over the shared area, each
block counting alike: equal data bars, scale bars and panel letters fill only a few.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from shards.fingerprint import (
    BASE_SIDE,
    CODE_BITS,
    LEVEL_RATIO,
    PLACE_UNIT,
    PLACES,
    THUMBNAIL_SIDE,
    Fingerprints,
    base_scale,
)

MIN_MATCHES = 5  # a shift, scale and turn follow from two
MIN_AGREEMENT = 0.5  # of the matches inside the shared area
MIN_SCORE = 0.5  # mean correlation of the blocks; distinct images with equal data bars reach 0.45
MAX_SCALE = 3.0  # between the base images
MAX_TURN = np.deg2rad(12)  # codes do not survive more

# The second image lies in the first at: first = scale * turn(second) + (x, y), in its own pixels.
OVERLAP = np.dtype(
    [
        ("first", "<i8"),
        ("second", "<i8"),
        ("x", "<f4"),
        ("y", "<f4"),
        ("scale", "<f4"),  # pixels of the first per pixel of the second
        ("turn", "<f4"),  # radians
        ("share", "<f4"),  # of the first image's area or of the second's, the larger
        ("matches", "<i2"),
        ("score", "<f4"),
    ]
)

T = TypeVar("T", bound=np.generic)
_Bools = npt.NDArray[np.bool_]
_Ints = npt.NDArray[np.int64]
_Reals = npt.NDArray[np.float64]
_Complex = npt.NDArray[np.complex128]

_CHUNK = 256  # pairs at a time: 40 MB of code distances
_MAX_DISTANCE = 16  # differing bits of 64; codes of unlike places differ in 32 +- 4
_NO_MATCH = CODE_BITS + 1
_TOLERANCE = 3.0  # pixels of the base image, 1.6 % of its side
_LEVEL_TOLERANCE = 0.13  # of a distance: half a step of LEVEL_RATIO
_BLOCK = 8  # pixels of a thumbnail


def find_overlaps(fingerprints: Fingerprints, first: _Ints, second: _Ints) -> npt.NDArray[np.void]:
    """Those of the pairs that show the same place, as OVERLAP records in the order given."""
    found = [
        _check(fingerprints, first[start : start + _CHUNK], second[start : start + _CHUNK])
        for start in range(0, len(first), _CHUNK)
    ]
    return np.concatenate([np.zeros(0, OVERLAP), *found])


def _check(fingerprints: Fingerprints, first: _Ints, second: _Ints) -> npt.NDArray[np.void]:
    partner, matched = _match(fingerprints, first, second)
    rows = matched.sum(1) >= MIN_MATCHES
    first, second, partner, matched = first[rows], second[rows], partner[rows], matched[rows]
    here = _positions(fingerprints, first)
    there = np.take_along_axis(_positions(fingerprints, second), partner, 1)
    steps = _levels(fingerprints, first) - np.take_along_axis(
        _levels(fingerprints, second), partner, 1
    )
    agreed = _vote(here, there, steps, matched)
    factor, offset, agreed = _refine(here, there, agreed, matched)
    sizes = _base_sizes(fingerprints, first), _base_sizes(fingerprints, second)
    shared = matched & _inside((here - offset) / factor, sizes[1])
    shared &= _inside(factor * there + offset, sizes[0])
    rows = agreed.sum(1) >= MIN_MATCHES
    rows &= agreed.sum(1) >= MIN_AGREEMENT * shared.sum(1)
    size = np.abs(factor[:, 0])
    rows &= (size <= MAX_SCALE) & (size * MAX_SCALE >= 1)
    rows &= np.abs(np.angle(factor[:, 0])) <= MAX_TURN
    first, second, factor, offset = first[rows], second[rows], factor[rows, 0], offset[rows, 0]
    score, share = _correlate(fingerprints, first, second, factor, offset)
    overlaps = _describe(fingerprints, first, second, factor, offset)
    overlaps["matches"], overlaps["score"], overlaps["share"] = agreed[rows].sum(1), score, share
    return overlaps[score >= MIN_SCORE]


def _match(fingerprints: Fingerprints, first: _Ints, second: _Ints) -> tuple[_Ints, _Bools]:
    """For each place of the first its nearest in the second, and whether each is the other's."""
    a, b = fingerprints["codes"][first], fingerprints["codes"][second]
    distance = np.bitwise_count(a[:, :, None] ^ b[:, None, :])
    distance[_absent(fingerprints, first)] = _NO_MATCH
    distance.swapaxes(1, 2)[_absent(fingerprints, second)] = _NO_MATCH
    partner = distance.argmin(2)
    back = np.take_along_axis(distance.argmin(1), partner, 1)
    nearest = np.take_along_axis(distance, partner[:, :, None], 2)[:, :, 0]
    matched = (back == np.arange(PLACES)) & (nearest <= _MAX_DISTANCE)
    return partner, matched


def _vote(here: _Complex, there: _Complex, steps: _Ints, matched: _Bools) -> _Bools:
    """The matches that agree with that match with which the most agree.

    One match fixes the shift, and through the levels of its two places roughly the scale.
    """
    scale = LEVEL_RATIO ** -steps.astype(np.float64)
    here_apart = here[:, None, :] - here[:, :, None]
    there_apart = there[:, None, :] - there[:, :, None]
    error = np.abs(here_apart - scale[:, :, None] * there_apart)
    agree = error < _TOLERANCE + _LEVEL_TOLERANCE * np.abs(here_apart)
    agree &= np.abs(steps[:, None, :] - steps[:, :, None]) <= 1
    agree &= matched[:, None, :] & matched[:, :, None]
    most = agree.sum(2).argmax(1)
    return np.take_along_axis(agree, most[:, None, None], 1)[:, 0]


def _refine(
    here: _Complex, there: _Complex, agreed: _Bools, matched: _Bools
) -> tuple[_Complex, _Complex, _Bools]:
    """Fit first = factor * second + offset in complex numbers, and keep who fits, ever closer."""
    for looseness in (3.0, 1.5, 1.0, 1.0):
        factor, offset = _fit(here, there, agreed)
        error = np.abs(here - factor * there - offset)
        agreed = matched & (error < looseness * _TOLERANCE)
    return factor, offset, agreed


def _fit(here: _Complex, there: _Complex, weight: _Bools) -> tuple[_Complex, _Complex]:
    """Least squares over the marked places; the argument of the factor is the turn."""
    count = np.maximum(weight.sum(1, keepdims=True), 1)
    here_mean = (here * weight).sum(1, keepdims=True) / count
    there_mean = (there * weight).sum(1, keepdims=True) / count
    apart = (there - there_mean) * weight
    spread = np.maximum((np.abs(apart) ** 2).sum(1, keepdims=True), 1e-6)
    factor = ((here - here_mean) * apart.conj()).sum(1, keepdims=True) / spread
    factor = np.where(np.abs(factor) < 1e-3, 1e-3, factor)  # all on one place: refused later
    return factor, here_mean - factor * there_mean


def _correlate(
    fingerprints: Fingerprints, first: _Ints, second: _Ints, factor: _Complex, offset: _Complex
) -> tuple[_Reals, _Reals]:
    """Mean correlation of the blocks of the shared area, and that area's share of the finer image.

    The image that shows the place larger is the frame; the other one is drawn into it.
    """
    larger = np.abs(factor) >= 1
    frame, other = np.where(larger, first, second), np.where(larger, second, first)
    offset = np.where(larger, offset, -offset / factor)
    factor = np.where(larger, factor, 1 / factor)
    ticks = (np.arange(THUMBNAIL_SIDE) + 0.5) / THUMBNAIL_SIDE
    grid = ticks + 1j * ticks[:, None]
    frame_size, other_size = (_base_sizes(fingerprints, which) for which in (frame, other))
    points = grid.real * frame_size.real[..., None] + 1j * grid.imag * frame_size.imag[..., None]
    points = (points - offset[:, None, None]) / factor[:, None, None]
    x = points.real / other_size.real[..., None] * THUMBNAIL_SIDE - 0.5
    y = points.imag / other_size.imag[..., None] * THUMBNAIL_SIDE - 0.5
    limit = THUMBNAIL_SIDE - 0.5
    shared = (x >= -0.5) & (x <= limit) & (y >= -0.5) & (y <= limit)
    drawn = _interpolate(fingerprints["thumbnail"][other], x, y)
    score = _block_score(fingerprints["thumbnail"][frame].astype(np.float64), drawn, shared)
    return score, shared.mean((1, 2))


def _interpolate(images: npt.NDArray[np.uint8], x: _Reals, y: _Reals) -> _Reals:
    """Bilinear; outside, the nearest pixel."""
    x, y = np.clip(x, 0, THUMBNAIL_SIDE - 1.001), np.clip(y, 0, THUMBNAIL_SIDE - 1.001)
    column, row = x.astype(np.int64), y.astype(np.int64)
    dx, dy = x - column, y - row
    n = np.arange(len(images))[:, None, None]
    above = images[n, row, column] * (1 - dx) + images[n, row, column + 1] * dx
    below = images[n, row + 1, column] * (1 - dx) + images[n, row + 1, column + 1] * dx
    return np.asarray(above * (1 - dy) + below * dy)


def _block_score(a: _Reals, b: _Reals, shared: _Bools) -> _Reals:
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


def _describe(
    fingerprints: Fingerprints, first: _Ints, second: _Ints, factor: _Complex, offset: _Complex
) -> npt.NDArray[np.void]:
    """From base images to the pixels of the images themselves."""
    overlaps = np.zeros(len(first), OVERLAP)
    scale = base_scale(fingerprints["height"][first], fingerprints["width"][first])
    other_scale = base_scale(fingerprints["height"][second], fingerprints["width"][second])
    overlaps["first"], overlaps["second"] = first, second
    overlaps["x"], overlaps["y"] = offset.real / scale, offset.imag / scale
    overlaps["scale"] = np.abs(factor) * other_scale / scale
    overlaps["turn"] = np.angle(factor)
    return overlaps


def _absent(fingerprints: Fingerprints, which: _Ints) -> _Bools:
    return np.asarray(np.arange(PLACES) >= fingerprints["count"][which, None])


def _levels(fingerprints: Fingerprints, which: _Ints) -> _Ints:
    return np.asarray(fingerprints["levels"][which].astype(np.int64))


def _positions(fingerprints: Fingerprints, which: _Ints) -> _Complex:
    places = fingerprints["places"][which].astype(np.float64) / PLACE_UNIT
    return np.asarray(places[..., 0] + 1j * places[..., 1])


def _base_sizes(fingerprints: Fingerprints, which: _Ints) -> _Complex:
    """(N, 1) width + i height."""
    height = fingerprints["height"][which, None].astype(np.float64)
    width = fingerprints["width"][which, None].astype(np.float64)
    return np.asarray((width + 1j * height) * base_scale(height, width))


def _inside(points: _Complex, size: _Complex) -> _Bools:
    margin = BASE_SIDE / 32  # 6 pixels: a place at the very edge may be in one image only
    x, y = points.real, points.imag
    inside = (x > margin) & (x < size.real - margin) & (y > margin) & (y < size.imag - margin)
    return np.asarray(inside)
