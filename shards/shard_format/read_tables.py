"""Read the tables beside the tars row by row: samples, pairs of near-duplicates, rejects."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from micrograph.cli import UserError
from shards.shard_format.schema import (
    OVERLAPS_NAME,
    REJECTS_NAME,
    SAMPLES_NAME,
    Rejected,
    read_rows,
)

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"  # controls, half pairs
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A row of samples.csv; `bar` is (edge, row, height of the file) if the image had one."""

    key: str
    split: str
    class_name: str
    source: str
    path: str
    group: str
    height: int
    width: int
    channels: int
    bar: tuple[str, int, int] | None
    annotations: int  # burnt-in marks


@dataclass(frozen=True, slots=True)
class Pair:
    """A row of overlaps.csv: first = scale * rotation(second) + (x, y), in pixels as stored."""

    first: str
    second: str
    x: float
    y: float
    scale: float
    rotation: float  # radians
    overlap_fraction: float


@dataclass(frozen=True, slots=True)
class Tables:
    """All three; a missing table is empty."""

    samples: Sequence[Sample]
    pairs: Sequence[Pair]
    rejects: Sequence[Rejected]


def read_tables(folder: Path) -> Tables:
    """Read the tables of a shard set. Damaged rows are left out."""
    return Tables(
        samples=list(read_samples(folder)),
        pairs=list(_pairs(folder)),
        rejects=list(_rejects(folder)),
    )


def read_samples(folder: Path) -> Iterator[Sample]:
    """The rows of samples.csv, in source order."""
    for row in _rows(folder / SAMPLES_NAME):
        with suppress(ValueError):
            yield Sample(
                key=row["key"],
                split=row["split"],
                class_name=row["class"],
                source=row["source"],
                path=row["path"],
                group=row["group"],
                height=int(row["height"]),
                width=int(row["width"]),
                channels=int(row["channels"]),
                bar=_bar(row["data_bar"]),
                annotations=int(row["annotations"] or 0),
            )


def path_in_source(file: Sample | Rejected) -> str:
    """How a file is shown: its path, after the name of its source if that has one."""
    return f"{file.source}: {file.path}" if file.source else file.path


def printable(name: object) -> str:
    """A name as one line of UTF-8 text: a file's name may hold any bytes but `/` and zero.

    Marks that change the direction of the text are replaced as well; letters keep theirs.
    """
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(name))


def _pairs(folder: Path) -> Iterator[Pair]:
    numbers = ("x", "y", "scale", "rotation", "overlap_fraction")
    for row in _rows(folder / OVERLAPS_NAME):
        with suppress(ValueError):
            yield Pair(row["first"], row["second"], *(float(row[column]) for column in numbers))


def _rejects(folder: Path) -> Iterator[Rejected]:
    path = folder / REJECTS_NAME
    if not path.exists():
        return
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            with suppress(ValueError, TypeError):
                yield Rejected(**json.loads(line))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The whole rows; none of a table that is missing or damaged."""
    with suppress(UserError):
        yield from (row for row in read_rows(path) if None not in row and None not in row.values())


def _bar(text: str) -> tuple[str, int, int] | None:
    if not text:
        return None
    edge, rows = text.split(" ")
    row, of = rows.split("/")
    return edge, int(row), int(of)
