"""Which images of a corpus overlap?

    fingerprints = np.stack([describe(pixels) for pixels in images])
    overlaps = find_duplicates(fingerprints)       # of dtype shards.overlap.OVERLAP

Images that could overlap are found through codes that they share (an inverted file, as in Sivic and
Zisserman 2003, doi:10.1109/ICCV.2003.1238663), then looked at by `shards.overlap`. The work grows
in proportion to the number of images: codes are cut to a length at which each has a few partners.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.fingerprint import (
    CODE_BITS,
    LEVEL_RATIO,
    PLACE_UNIT,
    PLACES,
    PLACES_PER_LEVEL,
    Fingerprints,
)
from shards.overlap import find_overlaps

_Codes = npt.NDArray[np.uint64]
_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float32]
_Words = npt.NDArray[np.int32]

# A meeting: two images have a place with the same code. Their number sets memory and time.
_MEETINGS_PER_CODE = 8
# A code that many images share meets only its nearest in the order of codes: a data bar stays
# cheap, and a thousand frames of one scene still form a chain.
_REACH = 24
# Two meetings that agree on the shift are seldom chance; one is in most cases.
_MIN_MEETINGS = 2
_CANDIDATES_PER_IMAGE = 32
_BIN = 64.0  # pixels of the base image: shifts in one bin agree
_BINS = 32  # along each axis; wider shifts than 1024 pixels share the outer ones
_LEVELS = len(PLACES_PER_LEVEL)
_SHIFTS = (2 * _LEVELS - 1) * _BINS**2
_SLICE = 1 << 20  # codes at a time
_PART = 1 << 14  # images at a time: their meetings with all others take 100 MB, twice


def find_duplicates(fingerprints: Fingerprints) -> npt.NDArray[np.void]:
    """The pairs of images that show the same place, as OVERLAP records. `fingerprints`: (N,)."""
    first, second = _candidates(fingerprints)
    return find_overlaps(fingerprints, first, second)


def _candidates(fingerprints: Fingerprints) -> tuple[_Ints, _Ints]:
    """Pairs of images with several meetings of one shift, the lower position first, in order."""
    images = len(fingerprints)
    places = _sorted_places(fingerprints)
    found = [
        _strengths(_meetings(places, images, first, first + _PART))
        for first in range(0, max(images, 1), _PART)
    ]
    pairs, strengths = (np.concatenate(parts) for parts in zip(*found, strict=True))
    needed = _MIN_MEETINGS
    while np.count_nonzero(strengths >= needed) > _CANDIDATES_PER_IMAGE * images:
        needed += 1
    pairs = pairs[strengths >= needed]
    return pairs // images, pairs % images


def _strengths(meetings: _Ints) -> tuple[_Ints, _Ints]:
    """Pairs of images (lower * images + higher) and their most meetings of one shift, if several.

    `meetings` must be sorted.
    """
    starts = np.flatnonzero(np.diff(meetings, prepend=-1))
    counts = np.diff(starts, append=len(meetings))
    several = counts >= _MIN_MEETINGS
    pairs, counts = meetings[starts[several]] // _SHIFTS, counts[several]
    heads = np.flatnonzero(np.diff(pairs, prepend=-1))
    most = np.maximum.reduceat(counts, heads) if len(heads) else counts
    return pairs[heads], most


@dataclass(frozen=True, slots=True)
class _Places:
    """All places of all images in the order of their codes; same bucket, same code."""

    buckets: _Words
    owners: _Words
    levels: npt.NDArray[np.int8]
    x: _Floats
    y: _Floats


def _sorted_places(fingerprints: Fingerprints) -> _Places:
    counts = fingerprints["count"]
    real = np.arange(PLACES) < counts[:, None]
    codes = fingerprints["codes"][real]
    order = np.argsort(codes, kind="stable")
    sizes = _bucket_sizes(codes[order])
    places = fingerprints["places"][real][order].astype(np.float32) / np.float32(PLACE_UNIT)
    return _Places(
        buckets=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        owners=np.repeat(np.arange(len(counts), dtype=np.int32), counts)[order],
        levels=fingerprints["levels"][real][order].astype(np.int8),
        x=places[:, 0],
        y=places[:, 1],
    )


def _bucket_sizes(codes: _Codes) -> _Ints:
    """Cut the sorted codes to the shortest prefix with which not too many meet."""
    differs = codes[1:] ^ codes[:-1]
    for bits in range(1, CODE_BITS + 1):
        starts = np.flatnonzero(differs >> np.uint64(CODE_BITS - bits)) + 1
        sizes = np.diff(starts, prepend=0, append=len(codes))
        if _meeting_count(sizes) <= _MEETINGS_PER_CODE * len(codes):
            break
    return sizes


def _meeting_count(sizes: _Ints) -> int:
    reach = np.minimum(sizes - 1, _REACH)
    return int((sizes * reach - reach * (reach + 1) // 2).sum())


def _meetings(places: _Places, images: int, first: int, last: int) -> _Ints:
    """One number per meeting, sorted: (lower image, higher image, shift).

    Of those alone of which the lower image is at `first` or after it, and before `last`.
    """
    meetings = [np.zeros(0, np.int64)]
    owners = places.owners
    for start in range(0, len(owners), _SLICE):
        for lag in range(1, _REACH + 1):
            ahead = places.buckets[start + lag : start + lag + _SLICE]
            here = start + np.flatnonzero(places.buckets[start : start + len(ahead)] == ahead)
            lower = np.minimum(owners[here], owners[here + lag])
            here = here[(lower >= first) & (lower < last)]
            meetings.append(_encode(places, here, here + lag, images))
    together = np.concatenate(meetings)
    together.sort()
    return together


def _encode(places: _Places, here: _Ints, there: _Ints, images: int) -> _Ints:
    owners = places.owners
    swapped = owners[here] > owners[there]
    here, there = np.where(swapped, there, here), np.where(swapped, here, there)
    differ = owners[here] != owners[there]
    here, there = here[differ], there[differ]
    steps = places.levels[here].astype(np.int64) - places.levels[there]
    scale = np.float32(LEVEL_RATIO) ** -steps.astype(np.float32)
    column = _bin(places.x[here] - scale * places.x[there])
    row = _bin(places.y[here] - scale * places.y[there])
    shift = ((steps + (_LEVELS - 1)) * _BINS + row) * _BINS + column
    pair = owners[here].astype(np.int64) * images + owners[there]
    return np.asarray(pair * _SHIFTS + shift, np.int64)


def _bin(shift: _Floats) -> _Ints:
    number = np.floor(shift / np.float32(_BIN)) + _BINS // 2
    return np.asarray(np.clip(number, 0, _BINS - 1), np.int64)
