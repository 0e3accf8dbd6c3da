"""The tables beside the tars: what was decided about every image, for people and tools."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from shards.encoding.spool import Catalog
from shards.images.decode import Decision
from shards.shard_format.schema import (
    OVERLAP_COLUMNS,
    OVERLAPS_NAME,
    REJECTS_NAME,
    SAMPLE_COLUMNS,
    SAMPLES_NAME,
    Rejected,
    file_sha256,
)
from shards.splitting.assign import Split
from shards.splitting.groups import Grouping
from shards.splitting.rules import SPLIT_NAMES


def group_names(catalog: Catalog, grouping: Grouping, split: Split) -> dict[int, str]:
    """Position -> key of the first image of its group, for images in groups of two or more.

    A mosaic that was cut is one group in each split.
    """
    kept = np.flatnonzero(grouping.kept)
    pieces = grouping.groups[kept] * 3 + split.assignment[kept]
    _, first, inverse, counts = np.unique(
        pieces, return_index=True, return_inverse=True, return_counts=True
    )
    names = catalog.records["key"][kept[first]]
    return {
        int(kept[i]): names[piece].decode("ascii")
        for i, piece in enumerate(inverse.tolist())
        if counts[piece] > 1
    }


def write_tables(
    folder: Path,
    catalog: Catalog,
    grouping: Grouping,
    split: Split,
    rejected: Sequence[Rejected],
    groups: Mapping[int, str],
) -> dict[str, str]:
    """Write samples.csv, overlaps.csv and rejects.jsonl; returns the SHA-256 of each."""
    rows = _sample_rows(catalog, grouping, split, groups)
    _write_csv(folder / SAMPLES_NAME, SAMPLE_COLUMNS, rows)
    _write_csv(folder / OVERLAPS_NAME, OVERLAP_COLUMNS, _overlap_rows(catalog, grouping))
    lines = (json.dumps(asdict(file), sort_keys=True) + "\n" for file in rejected)
    with (folder / REJECTS_NAME).open("w", encoding="utf-8") as stream:
        stream.writelines(lines)
    names = (SAMPLES_NAME, OVERLAPS_NAME, REJECTS_NAME)
    return {name: file_sha256(folder / name) for name in names}


def count_decisions(
    catalog: Catalog, grouping: Grouping, split: Split, groups: Mapping[int, str]
) -> dict[str, int]:
    """How many of the written images each decision concerns, and what the groups are."""
    taken = catalog.records["decisions"][split.written()]
    counts = {str(flag.name).lower(): int(np.count_nonzero(taken & flag)) for flag in Decision}
    counts["near_duplicate_pairs"] = len(grouping.overlaps)
    counts["groups"] = len(set(groups.values()))
    counts["grouped_images"] = len(groups)
    counts["groups_of_several_classes"] = _mixed(catalog, groups)
    return {name: count for name, count in sorted(counts.items()) if count}


def _sample_rows(
    catalog: Catalog, grouping: Grouping, split: Split, groups: Mapping[int, str]
) -> Iterator[Sequence[Any]]:
    for position, (row, provenance) in enumerate(catalog.with_provenance()):
        if not grouping.kept[position]:
            continue
        fold = int(split.folds[position])
        bar, annotations = provenance.get("data_bar"), provenance.get("annotations")
        yield (
            row["key"].decode("ascii"),
            SPLIT_NAMES[split.assignment[position]],
            fold if fold >= 0 else "",
            provenance["class"],
            provenance.get("source", ""),
            provenance["path"],
            groups.get(position, ""),
            provenance.get("specimen", ""),
            row["height"],
            row["width"],
            row["channels"],
            f"{bar['edge']} {bar['row']}/{bar['of']}" if bar else "",
            annotations["marks"] if annotations else "",
            "; ".join(provenance["notes"]),
        )


def _overlap_rows(catalog: Catalog, grouping: Grouping) -> Iterator[Sequence[Any]]:
    keys = catalog.records["key"]
    for overlap in grouping.overlaps:
        yield (
            keys[overlap["first"]].decode("ascii"),
            keys[overlap["second"]].decode("ascii"),
            *(f"{overlap[column]:.4g}" for column in OVERLAP_COLUMNS[2:7]),
            overlap["matches"],
            f"{overlap['score']:.3f}",
        )


def _mixed(catalog: Catalog, groups: Mapping[int, str]) -> int:
    """How many groups hold images of more than one class: near-duplicates with different labels."""
    labels: dict[str, set[int]] = {}
    for position, name in groups.items():
        labels.setdefault(name, set()).add(int(catalog.records["label"][position]))
    return sum(len(found) > 1 for found in labels.values())


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    # File names need not be UTF-8: they come back as they were with the same error handler.
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream)  # RFC 4180: lines end in CR LF, and a name may hold either
        writer.writerow(columns)
        writer.writerows(rows)
