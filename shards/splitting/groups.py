"""Remove exact copies, and group the images that a split must keep together.

A group is near-duplicates (`shards.duplicates.candidates`) and images of one specimen, as their
source names it, connected directly or through others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.duplicates.candidates import find_duplicates
from shards.duplicates.matching import OVERLAP
from shards.encoding.spool import Catalog
from shards.images.components import components
from shards.shard_format.schema import Rejected

_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]
_Pairs = tuple[_Ints, _Ints]


@dataclass(frozen=True, slots=True)
class Grouping:
    """Per image of a catalog: whether it is kept, and its group (its lowest member's position)."""

    kept: _Bools
    groups: _Ints
    overlaps: npt.NDArray[np.void]  # of dtype OVERLAP; positions in the catalog
    edges: _Ints  # (M, 2): all pairs that belong together, copies and specimens included
    specimens: _Bools  # whether the image's source names its specimen
    rejected: tuple[Rejected, ...]


def group_images(catalog: Catalog, *, near: bool = True) -> Grouping:
    """Remove exact duplicates and find the groups; without `near`, by specimen alone."""
    first, copies = _first_of_equals(catalog.records["image_sha256"])
    conflicting = _conflicting(first, copies, catalog.records["label"])
    kept = np.ones(len(catalog.records), np.bool_)
    kept[copies] = False
    kept[conflicting] = False
    rows = np.flatnonzero(kept)
    overlaps = np.zeros(0, OVERLAP)
    if near:
        overlaps = find_duplicates(catalog.fingerprints(rows))
        for end in ("first", "second"):
            overlaps[end] = rows[overlaps[end]]
    specimens = catalog.records["specimen"] != b""
    pairs = [
        (first, copies),
        (overlaps["first"].astype(np.int64), overlaps["second"].astype(np.int64)),
        _same_specimen(catalog.records["specimen"]),
    ]
    rejected = _rejected(catalog, kept, first, copies, conflicting)
    edges = np.concatenate([np.stack(pair, axis=1) for pair in pairs])
    groups = components(len(kept), edges[:, 0], edges[:, 1])
    return Grouping(kept, groups, overlaps, edges, specimens, tuple(rejected))


def _first_of_equals(digests: npt.NDArray[np.bytes_]) -> _Pairs:
    """For every exact copy but the first of each: the position of that first, and its own."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    leader = first[inverse]
    copies = np.flatnonzero(leader != np.arange(len(digests)))
    return np.asarray(leader[copies], np.int64), np.asarray(copies, np.int64)


def _same_specimen(specimens: npt.NDArray[np.bytes_]) -> _Pairs:
    named = np.flatnonzero(specimens != b"")
    first, copies = _first_of_equals(specimens[named])
    return named[first], named[copies]


def _conflicting(first: _Ints, copies: _Ints, labels: npt.NDArray[np.uint32]) -> _Ints:
    """All images with equal pixels in two classes, the first ones included: no label is certain."""
    ambiguous = np.unique(first[labels[first] != labels[copies]])
    return np.union1d(ambiguous, copies[np.isin(first, ambiguous)])


def _rejected(
    catalog: Catalog, kept: _Bools, first: _Ints, copies: _Ints, conflicting: _Ints
) -> Iterator[Rejected]:
    partner = dict(zip(copies.tolist(), first.tolist(), strict=True))
    for leader, copy in zip(first.tolist(), copies.tolist(), strict=True):
        partner.setdefault(leader, copy)
    ambiguous = set(conflicting.tolist())
    records: Any = catalog.records
    for position in sorted(partner):
        if kept[position]:
            continue
        provenance = catalog.provenance(records[position])
        other = catalog.provenance(records[partner[position]])
        reason = "conflicting_labels" if position in ambiguous else "duplicate"
        yield Rejected(
            source=provenance.get("source", ""),
            path=provenance["path"],
            reason=reason,
            detail=f"same pixels as {other['path']} of class {other['class']}",
        )
