"""What was decided about every image, in tables that people and tools can read."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from shards.assign import Assignment
from shards.catalog import Catalog, Rejected
from shards.grouping import Grouping
from shards.schema import (
    LEFT_OUT_SPLIT,
    OVERLAP_COLUMNS,
    OVERLAPS_NAME,
    REJECTS_NAME,
    SAMPLE_COLUMNS,
    SAMPLES_NAME,
    SPLITS,
    file_sha256,
)
from shards.split import LEFT_OUT, TRAIN, VAL

_SPLIT_OF = {TRAIN: SPLITS[0], VAL: SPLITS[1], LEFT_OUT: LEFT_OUT_SPLIT}


def group_names(catalog: Catalog, grouping: Grouping, assignment: Assignment) -> dict[int, str]:
    """Position -> key of the first image of its group, for images in groups of two or more.

    A mosaic that was cut is a group on each side.
    """
    kept = np.flatnonzero(grouping.kept)
    pieces = grouping.groups[kept] * 3 + assignment.sides[kept]
    _, first, inverse, counts = np.unique(
        pieces, return_index=True, return_inverse=True, return_counts=True
    )
    names = catalog.records["key"][kept[first]]
    return {
        int(kept[i]): names[piece].decode("ascii")
        for i, piece in enumerate(inverse.tolist())
        if counts[piece] > 1
    }


def write_ledger(
    folder: Path,
    catalog: Catalog,
    grouping: Grouping,
    assignment: Assignment,
    rejected: Sequence[Rejected],
    groups: Mapping[int, str],
) -> tuple[dict[str, str], dict[str, int]]:
    """Write samples.csv, overlaps.csv and rejects.jsonl.

    Returns the SHA-256 of each, and how many images each decision of the cleaning concerns.
    """
    decisions: Counter[str] = Counter()
    rows = _sample_rows(catalog, grouping, assignment, groups, decisions)
    _write_csv(folder / SAMPLES_NAME, SAMPLE_COLUMNS, rows)
    _write_csv(folder / OVERLAPS_NAME, OVERLAP_COLUMNS, _overlap_rows(catalog, grouping))
    lines = (json.dumps(asdict(file), sort_keys=True) + "\n" for file in rejected)
    with (folder / REJECTS_NAME).open("w", encoding="utf-8") as stream:
        stream.writelines(lines)
    decisions["near_duplicate_pairs"] = len(grouping.overlaps)
    decisions["groups"] = len(set(groups.values()))
    decisions["grouped_images"] = len(groups)
    decisions["groups_of_several_classes"] = _mixed(catalog, groups)
    names = (SAMPLES_NAME, OVERLAPS_NAME, REJECTS_NAME)
    hashes = {name: file_sha256(folder / name) for name in names}
    return hashes, {key: count for key, count in sorted(decisions.items()) if count}


def _sample_rows(
    catalog: Catalog,
    grouping: Grouping,
    assignment: Assignment,
    groups: Mapping[int, str],
    decisions: Counter[str],
) -> Iterator[Sequence[Any]]:
    for position, (row, said) in enumerate(catalog.described()):
        if not grouping.kept[position]:
            continue
        side = int(assignment.sides[position])
        fold = int(assignment.folds[position])
        bar, overlay = said.get("data_bar"), said.get("overlay")
        if side != LEFT_OUT:
            decisions.update(_decisions(said, int(row["channels"])))
        yield (
            row["key"].decode("ascii"),
            _SPLIT_OF[side],
            fold if fold >= 0 else "",
            said["class"],
            said.get("origin", ""),
            said["source"],
            groups.get(position, ""),
            said.get("specimen", ""),
            row["height"],
            row["width"],
            row["channels"],
            f"{bar['edge']} {bar['row']}/{bar['of']}" if bar else "",
            overlay["marks"] if overlay else "",
            "; ".join(said["notes"]),
        )


def _decisions(said: Mapping[str, Any], channels: int) -> Iterator[str]:
    if "data_bar" in said:
        yield "data_bar_cropped"
    if "overlay" in said:
        yield "overlay_found"
    if channels == 3:
        yield "truly_coloured"
    for note in said["notes"]:  # `windowed 12..4000 of uint16`: the first words are the decision
        yield _NOTE_DECISIONS.get(note.split()[0], note.split()[0])


_NOTE_DECISIONS = {
    "windowed": "depth_windowed",
    "equal": "colour_channels_equal",
    "colour": "colour_made_grey",
    "page": "first_page_taken",
    "EXIF": "exif_rotated",
    "from": "mode_converted",
}


def _overlap_rows(catalog: Catalog, grouping: Grouping) -> Iterator[Sequence[Any]]:
    keys = catalog.records["key"]
    for overlap in grouping.overlaps:
        yield (
            keys[overlap["first"]].decode("ascii"),
            keys[overlap["second"]].decode("ascii"),
            *(f"{overlap[column]:.4g}" for column in ("x", "y", "scale", "turn", "share")),
            overlap["matches"],
            f"{overlap['score']:.3f}",
        )


def _mixed(catalog: Catalog, groups: Mapping[int, str]) -> int:
    """Groups whose images stand in more than one class: near-duplicates with unlike labels."""
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
