"""Which images of a corpus overlap? Groups that must not be torn apart by a split.

    fingerprints = np.stack([describe(pixels) for pixels in images])
    groups = find_groups(fingerprints).groups      # equal number: same group

Images that could overlap are found through codes that they share (an inverted file, as in Sivic and
Zisserman 2003, doi:10.1109/ICCV.2003.1238663), then looked at by `shards.overlap`. The work grows
in proportion to the number of images: codes are cut to a length at which each has a few partners.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from shards.fingerprint import CODE_BITS, PLACES, Fingerprints
from shards.overlap import find_overlaps

_Codes = npt.NDArray[np.uint64]
_Ints = npt.NDArray[np.int64]

# Meetings (two images with an equal code) per code: sets memory, 64 bytes per code, and time.
_MEETINGS_PER_CODE = 8
# A code that many images share meets only its nearest in the order of codes: a data bar stays
# cheap, and a thousand frames of one scene still form a chain.
_REACH = 24
_MIN_MEETINGS = 2  # two images that meet once do so by chance
_CANDIDATES_PER_IMAGE = 32


@dataclass(frozen=True, slots=True)
class Duplicates:
    """The group of each image (its lowest member's position), and the overlaps that bind them."""

    groups: _Ints
    overlaps: npt.NDArray[np.void]  # of dtype shards.overlap.OVERLAP


def find_groups(fingerprints: Fingerprints) -> Duplicates:
    """Bind images that show the same place, directly or through others. `fingerprints`: (N,)."""
    first, second = _candidates(fingerprints)
    overlaps = find_overlaps(fingerprints, first, second)
    return Duplicates(_components(len(fingerprints), overlaps), overlaps)


def _components(images: int, overlaps: npt.NDArray[np.void]) -> _Ints:
    edges = (np.ones(len(overlaps), np.int8), (overlaps["first"], overlaps["second"]))
    _, labels = connected_components(coo_array(edges, shape=(images, images)), directed=False)
    _, lowest = np.unique(labels, return_index=True)
    return np.asarray(lowest[labels], np.int64)


def _candidates(fingerprints: Fingerprints) -> tuple[_Ints, _Ints]:
    """Pairs of images that share several codes, the lower position first, in order."""
    images = len(fingerprints)
    codes, owners = _sorted_codes(fingerprints)
    meetings = _meetings(_buckets(codes), owners, images)
    needed = _MIN_MEETINGS
    while True:
        often = meetings[: len(meetings) - needed + 1] == meetings[needed - 1 :]
        pairs = np.unique(meetings[: len(often)][often])
        if len(pairs) <= _CANDIDATES_PER_IMAGE * images:
            return pairs // images, pairs % images
        needed += 1


def _sorted_codes(fingerprints: Fingerprints) -> tuple[_Codes, npt.NDArray[np.int32]]:
    counts = fingerprints["count"]
    codes = fingerprints["codes"][np.arange(PLACES) < counts[:, None]]
    owners = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    order = np.argsort(codes, kind="stable")
    return codes[order], owners[order]


def _buckets(codes: _Codes) -> npt.NDArray[np.int32]:
    """Number the sorted codes by their longest prefix short enough to give meetings in plenty."""
    if not len(codes):
        return np.zeros(0, np.int32)
    differs = codes[1:] ^ codes[:-1]
    for bits in range(1, CODE_BITS + 1):
        starts = np.flatnonzero(differs >> np.uint64(CODE_BITS - bits)) + 1
        sizes = np.diff(starts, prepend=0, append=len(codes))
        if _meeting_count(sizes) <= _MEETINGS_PER_CODE * len(codes):
            break
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def _meeting_count(sizes: _Ints) -> int:
    reach = np.minimum(sizes - 1, _REACH)
    return int((sizes * reach - reach * (reach + 1) // 2).sum())


def _meetings(buckets: npt.NDArray[np.int32], owners: npt.NDArray[np.int32], images: int) -> _Ints:
    """One number per meeting, sorted: lower image * images + higher image."""
    sizes = np.bincount(buckets) if len(buckets) else np.zeros(0, np.int64)
    meetings = np.empty(_meeting_count(sizes), np.int64)
    count = 0
    for lag in range(1, _REACH + 1):
        at = np.flatnonzero(buckets[lag:] == buckets[:-lag])
        a, b = owners[at].astype(np.int64), owners[at + lag].astype(np.int64)
        pairs = (np.minimum(a, b) * images + np.maximum(a, b))[a != b]
        meetings[count : count + len(pairs)] = pairs
        count += len(pairs)
    meetings = meetings[:count]
    meetings.sort()
    return meetings
