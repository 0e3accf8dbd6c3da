"""Which images are the same, and which belong together: exact copies go, groups are bound.

A group is what a split must not tear apart: near-duplicates (`shards.duplicates`), and images to
which their source gives one specimen, both directly or through others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.catalog import Catalog, Rejected
from shards.components import components
from shards.duplicates import find_duplicates
from shards.overlap import OVERLAP

_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]
_Edges = tuple[_Ints, _Ints]


@dataclass(frozen=True, slots=True)
class Grouping:
    """Per image of a catalog: whether it stays, and its group (its lowest member's position)."""

    kept: _Bools
    groups: _Ints
    overlaps: npt.NDArray[np.void]  # of dtype OVERLAP; positions in the catalog
    bonds: _Ints  # (M, 2): all that binds, copies and specimens included
    specimens: _Bools  # whether the image's source gives it a group
    rejected: tuple[Rejected, ...]


def group_images(catalog: Catalog, *, near: bool = True) -> Grouping:
    """Remove exact duplicates and bind groups; without `near`, by specimen alone."""
    first, copies = _first_of_equals(catalog.records["stored"])
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
    edges = [
        (first, copies),
        (overlaps["first"].astype(np.int64), overlaps["second"].astype(np.int64)),
        _same_specimen(catalog.records["specimen"]),
    ]
    rejected = _rejected(catalog, kept, first, copies, conflicting)
    bonds = np.concatenate([np.stack(edge, axis=1) for edge in edges])
    groups = components(len(kept), bonds[:, 0], bonds[:, 1])
    return Grouping(kept, groups, overlaps, bonds, specimens, tuple(rejected))


def _first_of_equals(digests: npt.NDArray[np.bytes_]) -> _Edges:
    """For every exact copy but the first of each: the position of that first, and its own."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    leader = first[inverse]
    copies = np.flatnonzero(leader != np.arange(len(digests)))
    return np.asarray(leader[copies], np.int64), np.asarray(copies, np.int64)


def _same_specimen(specimens: npt.NDArray[np.bytes_]) -> _Edges:
    named = np.flatnonzero(specimens != b"")
    first, copies = _first_of_equals(specimens[named])
    return named[first], named[copies]


def _conflicting(first: _Ints, copies: _Ints, labels: npt.NDArray[np.uint32]) -> _Ints:
    """All images whose pixels stand in two classes, first ones included: no label is sure."""
    torn = np.unique(first[labels[first] != labels[copies]])
    return np.union1d(torn, copies[np.isin(first, torn)])


def _rejected(
    catalog: Catalog, kept: _Bools, first: _Ints, copies: _Ints, conflicting: _Ints
) -> Iterator[Rejected]:
    partner = dict(zip(copies.tolist(), first.tolist(), strict=True))
    for leader, copy in zip(first.tolist(), copies.tolist(), strict=True):
        partner.setdefault(leader, copy)
    torn = set(conflicting.tolist())
    records: Any = catalog.records
    for position in sorted(partner):
        if kept[position]:
            continue
        said = catalog.provenance(records[position])
        other = catalog.provenance(records[partner[position]])
        reason = "conflicting_labels" if position in torn else "duplicate"
        yield Rejected(
            origin=said.get("origin", ""),
            source=said["source"],
            reason=reason,
            detail=f"same pixels as {other['source']} of class {other['class']}",
        )
