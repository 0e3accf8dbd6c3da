"""Build the HTML report of a shard set."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.report.html import Bar, Section, number, render
from shards.report.sections import Pictures, picture_context, picture_sections, wanted_originals
from shards.report.selection import MOST_PICTURES, Selection, choose
from shards.report.set_stats import ClassStats, Range, SetStats, human_bytes, set_stats
from shards.report.thumbnails import StoredImages, draw_originals
from shards.shard_format.read_tables import read_tables
from shards.shard_format.schema import REPORT_NAME, SPLITS, Index, Manifest, read_index
from shards.sources.listing import Listing

_COMMON_SIZES, _BINS = 8, 12


def write_report(folder: Path, manifest: Manifest, listing: Listing | None) -> None:
    """Write `folder/report.html`; with `listing`, it also shows the files as they were before.

    The same set and sources give the same bytes. A missing source file is shown as missing. Raises
    `UserError` for a damaged index, `OSError` where the page cannot be written.
    """
    stats = set_stats(folder, manifest)
    selection = choose(read_tables(folder), manifest.classes)
    pictures = Pictures(
        StoredImages(folder, manifest),
        draw_originals(listing, wanted_originals(selection)),
        with_originals=listing is not None,
    )
    index = np.concatenate([read_index(folder, split) for split in SPLITS])
    warnings = list(_warnings(stats, selection))
    context = {
        "title": f"Corpus {manifest.name}" if manifest.name else "Corpus",
        "manifest": manifest,
        "stats": stats,
        "selection": selection,
        "sections": {
            "summary": Section("Summary"),
            "sizes-of-classes": Section("Images per class"),
            "warnings": Section("Warnings", len(warnings)),
            **picture_sections(selection, manifest),
            "sizes": Section("Image sizes"),
            "options": Section("Options"),
        },
        "tiles": _tiles(stats),
        "source_columns": _source_columns(stats),
        "class_bars": _class_bars(stats),
        "warnings": warnings,
        "alone": _training_only(stats),
        "restricted": [source for source in stats.sources if source.restriction],
        "unlicensed": [source for source in stats.sources if not source.licence],
        "common_sizes": _common_sizes(index),
        "sides": [
            (side.capitalize(), span, _histogram(index[side], span))
            for side, span in (("width", stats.width), ("height", stats.height))
        ],
        **picture_context(selection, manifest, pictures),
    }
    (folder / REPORT_NAME).write_text(render(context), encoding="utf-8")


def _tiles(stats: SetStats) -> Iterator[tuple[str, str]]:
    yield "images", number(stats.images)
    yield "classes", number(len(stats.classes))
    yield "training", number(stats.splits["train"])
    yield "validation", number(stats.splits["val"])
    if stats.grey is not None and stats.coloured is not None:
        yield "grey", number(stats.grey)
        yield "coloured", number(stats.coloured)
    yield "rejected", number(sum(stats.rejected.values()))
    yield "in tars", human_bytes(sum(stats.bytes.values()))


def _source_columns(stats: SetStats) -> list[str]:
    """The columns that are not empty."""
    columns = ["source", "images", "licence"]
    for column in ("restriction", "citation"):
        if any(getattr(source, column) for source in stats.sources):
            columns.append(column)
    return columns


def _class_bars(stats: SetStats) -> list[Bar]:
    order = sorted(enumerate(stats.classes), key=lambda item: -item[1].images)
    return [_class_bar(label, row) for label, row in order]


def _class_bar(label: int, row: ClassStats) -> Bar:
    return Bar(
        row.name,
        (("train", row.train), ("val", row.val)),
        f"{number(row.train)} + {number(row.val)}",
        hint=f"{row.name}: class {label}, {row.share:.1%} of the corpus",
        link=f"#class-{label}" if label < MOST_PICTURES else "",  # beyond, there is no sheet
        badge="" if row.val else "trains only",
    )


def _warnings(stats: SetStats, selection: Selection) -> Iterator[str]:
    """The warnings that apply; the template has their texts."""
    if any(source.restriction for source in stats.sources):
        yield "restricted"
    if not stats.splits["val"]:
        yield "no_validation"
    elif _training_only(stats):
        yield "training_only"
    if stats.left_out:
        yield "left_out"
    if selection.mixed_count:
        yield "mixed_groups"
    if stats.rejected.get("conflicting_labels"):
        yield "conflicting_labels"
    if stats.coloured and stats.grey:
        yield "coloured"
    if not all(source.licence for source in stats.sources):
        yield "no_licence"


def _training_only(stats: SetStats) -> list[str]:
    return [row.name for row in stats.classes if not row.val]


def _common_sizes(index: Index) -> list[Bar]:
    sizes = Counter(zip(index["width"].tolist(), index["height"].tolist(), strict=True))
    common = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        Bar(f"{width} x {height}", (("all", count),), number(count))
        for (width, height), count in common[:_COMMON_SIZES]
    ]
    if others := sum(count for _, count in common[_COMMON_SIZES:]):
        kinds = number(len(common) - _COMMON_SIZES)
        rows.append(Bar(f"{kinds} other sizes", (("all", others),), number(others)))
    return rows


def _histogram(values: npt.NDArray[np.uint32], span: Range) -> list[Bar]:
    """Empty where all are equal."""
    if span.min == span.max:
        return []
    step = -(-(span.max - span.min + 1) // _BINS)
    counts = np.bincount((values.astype(np.int64) - span.min) // step)
    starts = [span.min + n * step for n in range(len(counts))]
    return [
        Bar(f"{start} to {min(start + step - 1, span.max)}", (("all", count),), number(count))
        for start, count in zip(starts, counts.tolist(), strict=True)
    ]
