"""Print the contents of a shard set in numbers.

python -m shards.stats DIR
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from micrograph.cli import program
from micrograph.settings import Positional, load_config
from shards.report.set_stats import (
    ClassStats,
    Range,
    SetStats,
    human_bytes,
    numbers,
    readable,
    set_stats,
)
from shards.shard_format.read_tables import printable
from shards.shard_format.schema import SPLITS, read_manifest

_PIPE_WIDTH = 160  # columns of a table where there is no terminal


@dataclass(frozen=True, kw_only=True, slots=True)
class StatsConfig:
    """Print the contents of a shard set in numbers."""

    folder: Annotated[Path, Positional, "folder that shards.write made"]
    json: Annotated[bool, "as one JSON object"] = False


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(StatsConfig, argv)
    stats = set_stats(config.folder, read_manifest(config.folder))
    if config.json:
        print(json.dumps(asdict(stats), indent=1))
        return
    out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    for table in _tables(stats):
        out.print(table)
        out.print()


def _tables(stats: SetStats) -> Iterator[Table]:
    yield _table(
        "classes",
        ("class", "<train", "<val", "<share", "<median size", "<median file"),
        [*map(_class_row, stats.classes), _total_row(stats)],
        caption=f"split {stats.split_rule}" + "; * trains only" * bool(stats.training_only),
        marked=stats.training_only,
    )
    yield _table("set", ("", ""), _facts(stats))
    yield _table(
        "sources",
        ("source", "<images", "licence", "restriction"),
        [
            (s.name or "(the only one)", s.samples, s.licence or "not stated", s.restriction or "")
            for s in stats.sources
        ],
    )
    if stats.decisions:
        rows = [(readable(name), count) for name, count in stats.decisions.items()]
        yield _table("done and found", ("decision", "<count"), rows)
    rows = [(readable(name), count) for name, count in stats.rejected.items()]
    rows.append(("all", sum(stats.rejected.values())))
    yield _table("rejected", ("reason", "<files"), rows)


def _facts(stats: SetStats) -> Iterator[tuple[str, str]]:
    if stats.name:
        yield "corpus", stats.name
    for split in SPLITS:
        size, shards = human_bytes(stats.bytes[split]), stats.shards[split]
        yield split, f"{stats.splits[split]} images, {size} in {shards} tar{'s'[: shards != 1]}"
    if stats.left_out:
        yield "left out", f"{stats.left_out} images that overlap training and validation images"
    if stats.coloured is not None:
        yield "colour", f"{stats.grey} grey, {stats.coloured} coloured"
    for side in ("height", "width"):
        size_range: Range = getattr(stats, side)
        low, middle, high = size_range.min, size_range.median, size_range.max
        yield side, f"{low} to {high} pixels, median {middle}"
    yield "mean", f"measured {numbers(stats.pixel_mean)}; used {numbers(stats.mean)}"
    yield "deviation", f"measured {numbers(stats.pixel_std)}; used {numbers(stats.std)}"
    yield "made by", stats.tool
    yield "hash", stats.corpus_hash


def _class_row(row: ClassStats) -> tuple[object, ...]:
    size = f"{row.median_width} x {row.median_height}"
    return row.name, row.train, row.val, f"{row.share:.1%}", size, human_bytes(row.median_bytes)


def _total_row(stats: SetStats) -> tuple[object, ...]:
    whole = f"{len(stats.classes)} classes, {stats.images} images"
    return whole, stats.splits["train"], stats.splits["val"], "", "", ""


def _table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str | None = None,
    marked: Sequence[str] = (),
) -> Table:
    """`<` before a column's name aligns it to the right; first cells in `marked` get a *."""
    # `Text`, since rich would read `[red]` in a plain string as a style.
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for column in columns:
        right = column.startswith("<")
        table.add_column(
            column.lstrip("<"), justify="right" if right else "left", no_wrap=right, overflow="fold"
        )
    table.show_header = any(columns)
    for row in rows:
        cells = [Text(printable(cell)) for cell in row]
        if row[0] in marked:
            cells[0].append(" *")
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    main()
