"""A page that shows a corpus at a glance: what is in it, what was done to it, what is odd.

python -m shards.report DIR                    makes DIR/report.html again
python -m shards.report DIR --source PATH      with the files that were cropped or rejected
python -m shards.report DIR --corpus RECIPE    the same for a corpus of several sources
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.cli import ArgumentParser, program
from shards.corpus import plain_source, read_corpus
from shards.exhibits import Pictures, exhibits, wanted_originals
from shards.page import (
    Bar,
    Section,
    amount,
    badge,
    bars,
    code,
    number,
    option,
    paragraph,
    render,
    table,
    text,
    tiles,
)
from shards.schema import (
    REPORT_NAME,
    SPLITS,
    Index,
    Manifest,
    SourceInfo,
    read_index,
    read_manifest,
)
from shards.selection import MOST_PICTURES, Selection, choose
from shards.sources import Listing, list_sources
from shards.stats import ClassStats, SetStats, human_bytes, numbers, readable, set_stats
from shards.tables import read_tables
from shards.thumbnails import StoredImages, draw_originals

_MOST_NAMED = 60  # classes or groups in one warning
_COMMON_SIZES, _BINS = 8, 12


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description=f"Make {REPORT_NAME} of a shard set again.")
    parser.add_argument("folder", type=Path, help="folder that shards.write made")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--source", metavar="PATH", help="what the set was made from")
    given.add_argument("--corpus", type=Path, metavar="FILE", help="the recipe it was made from")
    arguments = parser.parse_args(argv)
    manifest = read_manifest(arguments.folder)
    listing = None
    if arguments.source is not None:
        listing = list_sources([plain_source(arguments.source)])
    elif arguments.corpus is not None:
        listing = list_sources(read_corpus(arguments.corpus).sources)
    write_report(arguments.folder, manifest, listing)
    print(arguments.folder / REPORT_NAME)


def write_report(folder: Path, manifest: Manifest, listing: Listing | None) -> None:
    """Write `folder/report.html`; with `listing`, also what the files looked like before.

    The same set and sources give the same bytes. A source that is gone shows as missing. Raises
    `UserError` for an index that is damaged, `OSError` where the page cannot be written.
    """
    stats = set_stats(folder, manifest)
    selection = choose(read_tables(folder), manifest.classes)
    pictures = Pictures(
        StoredImages(folder, manifest),
        draw_originals(listing, wanted_originals(selection)),
        with_originals=listing is not None,
    )
    sections = [
        _summary(stats),
        _class_sizes(stats),
        _warnings(stats, manifest, selection),
        *exhibits(selection, manifest, pictures),
        _sizes(stats, np.concatenate([read_index(folder, split) for split in SPLITS])),
        _options(stats, manifest),
    ]
    page = render(f"Corpus {manifest.name}" if manifest.name else "Corpus", sections)
    (folder / REPORT_NAME).write_text(page, encoding="utf-8")


def _summary(stats: SetStats) -> Section:
    facts = [
        ("images", number(stats.images)),
        ("classes", number(len(stats.classes))),
        ("training", number(stats.splits["train"])),
        ("validation", number(stats.splits["val"])),
    ]
    if stats.grey is not None and stats.coloured is not None:
        facts += [("grey", number(stats.grey)), ("coloured", number(stats.coloured))]
    facts += [
        ("rejected", number(sum(stats.rejected.values()))),
        ("in tars", human_bytes(sum(stats.bytes.values()))),
    ]
    rows = [
        (
            code(source.name) if source.name else "the only one",
            number(source.samples),
            text(source.licence) if source.licence else '<span class="soft">not stated</span>',
            badge(source.restriction, "bad") if source.restriction else "",
            text(source.citation or ""),
        )
        for source in stats.sources
    ]
    header = ("source", "<images", "licence", "restriction", "citation")
    filled = [n for n in range(len(header)) if any(row[n] for row in rows)]
    sources = table([header[n] for n in filled], [[row[n] for n in filled] for row in rows])
    return Section("summary", "Summary", tiles(facts) + sources)


def _class_sizes(stats: SetStats) -> Section:
    key = (
        '<p class="key"><span><i class="train"></i>training</span>'
        '<span><i class="val"></i>validation</span></p>'
    )
    order = sorted(enumerate(stats.classes), key=lambda item: -item[1].images)
    rows = [_class_bar(label, row, stats) for label, row in order]
    return Section("sizes-of-classes", "Images per class", key + bars(rows))


def _class_bar(label: int, row: ClassStats, stats: SetStats) -> Bar:
    name = text(row.name)
    if label < MOST_PICTURES:  # beyond, there is no contact sheet to go to
        name = f'<a href="#class-{label}">{name}</a>'
    note = f"{number(row.train)} + {number(row.val)}"
    if not row.val:
        note += " " + badge("trains only")
    hint = f"{row.name}: class {label}, {row.share:.1%} of the corpus"
    return Bar(name, (("train", row.train), ("val", row.val)), note, hint)


def _warnings(stats: SetStats, manifest: Manifest, selection: Selection) -> Section:
    found = list(_each_warning(stats, manifest, selection))
    if not found:
        return Section("warnings", "Warnings", paragraph("None.", "good"), 0)
    items = "\n".join(f"<li>{warning}</li>" for warning in found)
    return Section("warnings", "Warnings", f'<ul class="warnings">\n{items}\n</ul>', len(found))


def _each_warning(stats: SetStats, manifest: Manifest, selection: Selection) -> Iterator[str]:
    if restricted := [source for source in stats.sources if source.restriction]:
        names = "; ".join(
            f"{code(source.name)}: {text(source.restriction)}"
            if source.name
            else text(source.restriction)
            for source in restricted
        )
        yield (
            f"<b>Restricted images.</b> {names}. This page shows some of them: it may go no "
            "further than they may."
        )
    if not stats.splits["val"]:
        yield "<b>No validation images.</b> No training on this set can be measured."
    elif alone := [row.name for row in stats.classes if not row.val]:
        yield (
            f"<b>Only for training: {len(alone)} of {len(stats.classes)} classes</b>, "
            "so that the validation score says nothing of them. Their images are too few or bound "
            f"in groups too large to divide; {option('--split-overlaps')} cuts mosaics in space. "
            f"{_some(alone)}"
        )
    if count := stats.left_out:
        yield f"<b>{amount(count, 'image')} left out</b>: they overlap both sides of the split."
    if count := selection.mixed_count:
        yield (
            f"<b>{amount(count, 'group')} of several classes.</b> Images of one place "
            "under unlike labels: a mistake in one of them, or classes that one image can show at "
            'once. <a href="#groups">Look at them.</a>'
        )
    if count := manifest.rejected.get("conflicting_labels", 0):
        yield (
            f"<b>{amount(count, 'file')} with conflicting labels</b>: equal pixels in "
            'more than one class. All are left out. <a href="#rejects">Look at them.</a>'
        )
    if stats.coloured and stats.grey:
        yield (
            f"<b>Coloured: {number(stats.coloured)} of {amount(stats.images, 'image')}</b>, which "
            f"makes encoders of this set take three channels. {option('--grey')} makes all grey."
        )
    if unknown := [source for source in stats.sources if not source.licence]:
        names = ", ".join(map(_source, unknown))
        yield f"<b>No licence stated</b> for {names}. State it before passing weights or images on."


def _source(source: SourceInfo) -> str:
    return code(source.name) if source.name else "the source"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(code, names[:_MOST_NAMED])) + more


def _sizes(stats: SetStats, index: Index) -> Section:
    sides = Counter(zip(index["width"].tolist(), index["height"].tolist(), strict=True))
    common = sorted(sides.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        Bar(f"{width} x {height}", (("all", count),), f"{number(count)}")
        for (width, height), count in common[:_COMMON_SIZES]
    ]
    if others := sum(count for _, count in common[_COMMON_SIZES:]):
        kinds = len(common) - _COMMON_SIZES
        rows.append(Bar(f"{number(kinds)} other sizes", (("all", others),), number(others)))
    body = [paragraph("Pixels as stored, width x height."), bars(rows)]
    for side, span in (("width", stats.width), ("height", stats.height)):
        body.append(
            f"<h3>{side.capitalize()}: {span.min} to {span.max} pixels, median {span.median}</h3>"
        )
        if span.min < span.max:
            body.append(bars(_histogram(index[side])))
    return Section("sizes", "Image sizes", "\n".join(body))


def _histogram(values: npt.NDArray[np.uint32]) -> list[Bar]:
    low, high = int(values.min()), int(values.max())
    step = -(-(high - low + 1) // _BINS)
    counts = np.bincount((values.astype(np.int64) - low) // step)
    return [
        Bar(
            f"{low + n * step} to {min(low + (n + 1) * step - 1, high)}",
            (("all", count),),
            number(count),
        )
        for n, count in enumerate(counts.tolist())
    ]


def _options(stats: SetStats, manifest: Manifest) -> Section:
    facts = [
        ("made by", text(stats.tool)),
        ("split", text(readable(stats.split_rule))),
        ("mean of training pixels", f"{numbers(stats.pixel_mean)}; used: {numbers(stats.mean)}"),
        ("their deviation", f"{numbers(stats.pixel_std)}; used: {numbers(stats.std)}"),
        ("corpus hash", code(stats.corpus_hash)),
    ]
    for name, cut in sorted(manifest.split_report.get("cut", {}).items()):
        sides = ", ".join(f"{count} {readable(side)}" for side, count in cut.items())
        facts.append((f"mosaic of {text(name)} cut", text(sides)))
    done = [(text(readable(name)), number(count)) for name, count in stats.decisions.items()]
    options = [(code(key), code(_spelt(value))) for key, value in sorted(manifest.options.items())]
    body = table(("", ""), facts)
    if done:
        body += "<h3>Done and found</h3>" + table(("decision", "<count"), done)
    body += "<h3>Options that decide the bytes</h3>" + table(("option", "value"), options)
    return Section("options", "Options", body)


def _spelt(value: object) -> str:
    if value is None:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
