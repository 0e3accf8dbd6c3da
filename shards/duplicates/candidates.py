"""Find the images of a corpus that overlap.

    fingerprints = np.stack([compute_fingerprint(pixels) for pixels in images])
    overlaps = find_duplicates(fingerprints)       # of dtype shards.duplicates.matching.OVERLAP

Candidates are images that share descriptors (an inverted file, as in Sivic and Zisserman 2003,
doi:10.1109/ICCV.2003.1238663); `shards.duplicates.matching` decides. The work grows in proportion
to the number of images: descriptors are shortened until each matches only a few others.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.duplicates.fingerprint import (
    DESCRIPTOR_BITS,
    KEYPOINT_UNIT,
    KEYPOINTS,
    KEYPOINTS_PER_LEVEL,
    LEVEL_RATIO,
    Fingerprints,
)
from shards.duplicates.matching import find_overlaps

_Descriptors = npt.NDArray[np.uint64]
_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float32]
_Words = npt.NDArray[np.int32]

# A match: two images have a keypoint with the same descriptor. Their number sets memory and time.
_MATCHES_PER_DESCRIPTOR = 8
# A descriptor of many images matches only its nearest in the order of descriptors: a data bar stays
# cheap, and a thousand frames of one scene still form a chain.
_REACH = 24
# Two matches that agree on the shift are seldom chance; one is in most cases.
_MIN_MATCHES = 2
_CANDIDATES_PER_IMAGE = 32
_BIN = 64.0  # pixels of the base image: shifts in one bin agree
_BINS = 32  # along each axis; wider shifts than 1024 pixels share the outer ones
_LEVELS = len(KEYPOINTS_PER_LEVEL)
_SHIFTS = (2 * _LEVELS - 1) * _BINS**2
_SLICE = 1 << 20  # descriptors at a time
_PART = 1 << 14  # images at a time: their matches with all others take 100 MB, twice


def find_duplicates(fingerprints: Fingerprints) -> npt.NDArray[np.void]:
    """The pairs of images that show the same place, as OVERLAP records. `fingerprints`: (N,)."""
    first, second = _candidates(fingerprints)
    return find_overlaps(fingerprints, first, second)


def _candidates(fingerprints: Fingerprints) -> tuple[_Ints, _Ints]:
    """Pairs of images with several matches of one shift, the lower position first, in order."""
    images = len(fingerprints)
    keypoints = _sorted_keypoints(fingerprints)
    found = [
        _strengths(_matches(keypoints, images, first, first + _PART))
        for first in range(0, max(images, 1), _PART)
    ]
    pairs, strengths = (np.concatenate(parts) for parts in zip(*found, strict=True))
    needed = _MIN_MATCHES
    while np.count_nonzero(strengths >= needed) > _CANDIDATES_PER_IMAGE * images:
        needed += 1
    pairs = pairs[strengths >= needed]
    return pairs // images, pairs % images


def _strengths(matches: _Ints) -> tuple[_Ints, _Ints]:
    """Pairs of images (lower * images + higher) and their most matches of one shift, if several.

    `matches` must be sorted.
    """
    starts = np.flatnonzero(np.diff(matches, prepend=-1))
    counts = np.diff(starts, append=len(matches))
    several = counts >= _MIN_MATCHES
    pairs, counts = matches[starts[several]] // _SHIFTS, counts[several]
    heads = np.flatnonzero(np.diff(pairs, prepend=-1))
    most = np.maximum.reduceat(counts, heads) if len(heads) else counts
    return pairs[heads], most


@dataclass(frozen=True, slots=True)
class _Keypoints:
    """All keypoints of all images, sorted by descriptor; equal descriptors share a bucket."""

    buckets: _Words
    owners: _Words
    levels: npt.NDArray[np.int8]
    x: _Floats
    y: _Floats


def _sorted_keypoints(fingerprints: Fingerprints) -> _Keypoints:
    counts = fingerprints["count"]
    real = np.arange(KEYPOINTS) < counts[:, None]
    descriptors = fingerprints["descriptors"][real]
    order = np.argsort(descriptors, kind="stable")
    sizes = _bucket_sizes(descriptors[order])
    positions = fingerprints["keypoints"][real][order].astype(np.float32)
    positions /= np.float32(KEYPOINT_UNIT)
    return _Keypoints(
        buckets=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        owners=np.repeat(np.arange(len(counts), dtype=np.int32), counts)[order],
        levels=fingerprints["levels"][real][order].astype(np.int8),
        x=positions[:, 0],
        y=positions[:, 1],
    )


def _bucket_sizes(descriptors: _Descriptors) -> _Ints:
    """Cut the sorted descriptors to the shortest prefix with which not too many match."""
    differs = descriptors[1:] ^ descriptors[:-1]
    for bits in range(1, DESCRIPTOR_BITS + 1):
        starts = np.flatnonzero(differs >> np.uint64(DESCRIPTOR_BITS - bits)) + 1
        sizes = np.diff(starts, prepend=0, append=len(descriptors))
        if _match_count(sizes) <= _MATCHES_PER_DESCRIPTOR * len(descriptors):
            break
    return sizes


def _match_count(sizes: _Ints) -> int:
    reach = np.minimum(sizes - 1, _REACH)
    return int((sizes * reach - reach * (reach + 1) // 2).sum())


def _matches(keypoints: _Keypoints, images: int, first: int, last: int) -> _Ints:
    """One number per match, sorted: (lower image, higher image, shift).

    Of those alone of which the lower image is at `first` or after it, and before `last`.
    """
    matches = [np.zeros(0, np.int64)]
    owners = keypoints.owners
    for start in range(0, len(owners), _SLICE):
        for lag in range(1, _REACH + 1):
            ahead = keypoints.buckets[start + lag : start + lag + _SLICE]
            here = start + np.flatnonzero(keypoints.buckets[start : start + len(ahead)] == ahead)
            lower = np.minimum(owners[here], owners[here + lag])
            here = here[(lower >= first) & (lower < last)]
            matches.append(_encode(keypoints, here, here + lag, images))
    together = np.concatenate(matches)
    together.sort()
    return together


def _encode(keypoints: _Keypoints, here: _Ints, there: _Ints, images: int) -> _Ints:
    owners = keypoints.owners
    swapped = owners[here] > owners[there]
    here, there = np.where(swapped, there, here), np.where(swapped, here, there)
    differ = owners[here] != owners[there]
    here, there = here[differ], there[differ]
    steps = keypoints.levels[here].astype(np.int64) - keypoints.levels[there]
    scale = np.float32(LEVEL_RATIO) ** -steps.astype(np.float32)
    column = _bin(keypoints.x[here] - scale * keypoints.x[there])
    row = _bin(keypoints.y[here] - scale * keypoints.y[there])
    shift = ((steps + (_LEVELS - 1)) * _BINS + row) * _BINS + column
    pair = owners[here].astype(np.int64) * images + owners[there]
    return np.asarray(pair * _SHIFTS + shift, np.int64)


def _bin(shift: _Floats) -> _Ints:
    number = np.floor(shift / np.float32(_BIN)) + _BINS // 2
    return np.asarray(np.clip(number, 0, _BINS - 1), np.int64)
