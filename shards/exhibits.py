"""The parts of the report that show micrographs: what was kept, cut, found, bound and rejected."""

import cmath
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from shards.catalog import Rejected
from shards.cli import cores
from shards.page import (
    Section,
    amount,
    badge,
    code,
    figure,
    fold,
    gallery,
    line,
    number,
    option,
    paragraph,
    polygon,
    rectangle,
    text,
)
from shards.reasons import REASONS, UNSEEN
from shards.schema import SPLITS, Manifest
from shards.selection import Group, Selection
from shards.stats import readable
from shards.tables import Pair, Sample
from shards.thumbnails import Picture, SourcePath, StoredImages, Wanted

_SMALL, _MIDDLE, _LARGE = 112, 224, 300  # pixels, the longest side of a thumbnail


@dataclass(frozen=True, slots=True)
class Pictures:
    """Where the pictures come from; `originals` are those of the wanted files that are at hand."""

    stored: StoredImages
    originals: Mapping[SourcePath, Picture]
    with_originals: bool  # whether the sources were given


def wanted_originals(selection: Selection) -> dict[SourcePath, Wanted]:
    """The source files that `exhibits` would show."""
    wanted = {
        (reject.source, reject.path): Wanted(_SMALL, stretch=reason == "mask")
        for reason, rejects in selection.rejects.items()
        if reason not in UNSEEN
        for reject in rejects
    }
    return wanted | {(s.source, s.path): Wanted(_MIDDLE) for s in selection.bars}


def exhibits(selection: Selection, manifest: Manifest, pictures: Pictures) -> list[Section]:
    """The sections with pictures, in the order of the page."""
    return [
        _sheets(selection, manifest, pictures),
        _rejects(selection, manifest, pictures),
        _bars(selection, manifest, pictures),
        _overlays(selection, manifest, pictures),
        _near_duplicates(selection, manifest, pictures),
    ]


def _sheets(selection: Selection, manifest: Manifest, pictures: Pictures) -> Section:
    body = [
        '<p class="key"><span><i class="frame"></i>validation</span>'
        '<span class="soft">without a frame: training. Hold the pointer over an image for its '
        "file.</span></p>"
    ]
    if not any(selection.sheets.values()):
        body = [paragraph("There is no samples.csv beside the tars to choose images by.", "soft")]
    for position, (name, samples) in enumerate(selection.sheets.items()):
        if samples:
            train, val = (manifest.splits[split].class_counts[position] for split in SPLITS)
            summary = f'<b id="class-{position}">{text(name)}</b> '
            summary += f'<span class="count">{number(train)} + {number(val)}</span>'
            body.append(fold(summary, _sheet(samples, pictures)))
    return Section("classes", "Classes", "\n".join(body), len(selection.sheets))


def _rejects(selection: Selection, manifest: Manifest, pictures: Pictures) -> Section:
    total = sum(manifest.rejected.values())
    if not total:
        return Section("rejects", "Rejects", paragraph("Every file was taken."), 0)
    seen = [r for reason, own in selection.rejects.items() for r in own if reason not in UNSEEN]
    body = [_about_originals(pictures, seen)]
    for reason, count in sorted(manifest.rejected.items(), key=lambda item: (-item[1], item[0])):
        means, do = REASONS.get(reason, ("", ""))
        shown = selection.rejects.get(reason, ())
        some = f"{len(shown)} of them:" if len(shown) < count else ""
        inside = paragraph(f"{text(means)} {text(do)} {some}".strip())
        inside += _files(shown) if reason in UNSEEN else _rejected(shown, pictures)
        summary = f'<b>{text(readable(reason))}</b> <span class="count">{number(count)}</span>'
        body.append(fold(summary, inside))
    return Section("rejects", "Rejects", "\n".join(body), total)


def _files(rejects: Iterable[Rejected]) -> str:
    items = (f"<li>{_name(r.source, r.path)} — {text(r.detail)}</li>" for r in rejects)
    return f"<ul>{''.join(items)}</ul>"


def _rejected(rejects: Iterable[Rejected], pictures: Pictures) -> str:
    return gallery(
        (
            figure(
                pictures.originals.get((reject.source, reject.path)),
                hint=_path(reject.source, reject.path),
                caption=f"{_name(reject.source, reject.path)}<br>{text(reject.detail)}",
            )
            for reject in rejects
        ),
        "examples",
    )


def _bars(selection: Selection, manifest: Manifest, pictures: Pictures) -> Section:
    count = manifest.decisions.get("data_bar_cropped", 0)
    if not selection.bars:
        return Section("data-bars", "Data bars", paragraph("None was found or cut off."), count)
    body = [
        paragraph(
            f"{amount(count, 'image')} had a bar at an edge, which was cut off. Left: the file, "
            f"the cut in red; right: what is stored. {len(selection.bars)} of them, over sources "
            f"and classes. If a cut takes away micrograph: {option('--data-bars keep')}."
        ),
        _about_originals(pictures, selection.bars),
        gallery((_one_bar(sample, pictures) for sample in selection.bars), "pairs"),
    ]
    return Section("data-bars", "Data bars", "\n".join(body), count)


def _one_bar(sample: Sample, pictures: Pictures) -> str:
    edge, row, of = sample.bar or ("bottom", 0, 1)
    before = pictures.originals.get((sample.source, sample.path))
    left = ""
    if before is None and pictures.with_originals:
        left = figure(None, hint=_path(sample.source, sample.path))
    elif before is not None:
        cut = before.height * row / of
        top, bottom = (cut, before.height) if edge == "bottom" else (0, cut)
        drawing = rectangle(0, top, before.width, bottom, "cut") + line(0, cut, before.width, cut)
        left = figure(before, hint=_path(sample.source, sample.path), drawing=drawing)
    right = figure(pictures.stored.picture(sample.key, _MIDDLE), hint=_hint(sample))
    caption = f"{_name(sample.source, sample.path)}<br>{text(edge)} bar, cut at row {row} of {of}"
    return _pair(left + right, caption)


def _overlays(selection: Selection, manifest: Manifest, pictures: Pictures) -> Section:
    count = manifest.decisions.get("annotations_found", 0)
    if not selection.annotated:
        return Section("overlays", "Overlays", paragraph("No drawn marks were found."), count)
    body = [
        paragraph(
            f"{amount(count, 'image')} with marks that software drew there: scale bars, labels, "
            f"panel letters. {len(selection.annotated)} of them, with the marks in red. To leave "
            f"out those with many: {option('--annotations discard')}."
        ),
        gallery(_one_overlay(sample, pictures) for sample in selection.annotated),
    ]
    return Section("overlays", "Overlays", "\n".join(body), count)


def _one_overlay(sample: Sample, pictures: Pictures) -> str:
    margin = max(sample.height, sample.width) / 150  # the frame beside the mark, not upon it
    drawing = "".join(
        rectangle(left - margin, top - margin, right + margin, bottom + margin)
        for top, left, bottom, right in _boxes(sample, pictures.stored)
    )
    caption = f"{text(sample.class_name)}, {amount(sample.annotations, 'mark')}"
    picture = pictures.stored.picture(sample.key, _LARGE)
    return figure(picture, hint=_hint(sample), caption=caption, drawing=drawing)


def _boxes(sample: Sample, stored: StoredImages) -> list[tuple[float, ...]]:
    """Top, left, bottom, right in pixels of the stored image."""
    try:
        overlay = json.loads(stored.provenance(sample.key))["overlay"]
        scale = sample.height / float(overlay["of"][0])
        return [tuple(float(side) * scale for side in box) for box in overlay["boxes"]]
    except (KeyError, IndexError, TypeError, ValueError):  # damaged: shards.verify says it
        return []


def _near_duplicates(selection: Selection, manifest: Manifest, pictures: Pictures) -> Section:
    found = manifest.decisions
    pairs, groups = found.get("near_duplicate_pairs", 0), found.get("groups", 0)
    title, anchor = "Near-duplicates and groups", "groups"
    if not groups and not selection.pairs:
        return Section(anchor, title, paragraph("None: every image stands alone."), 0)
    body = [
        paragraph(
            f"{amount(pairs, 'pair')} of images at the same place. They, and the images of one "
            f"specimen where a source names it, make {amount(groups, 'group')} "
            f"of {number(found.get('grouped_images', 0))} images; the split tears none apart."
        )
    ]
    if selection.mixed:
        body.append("<h3>Groups of several classes: is each label right?</h3>")
        body += [_one_group(group, pictures) for group in selection.mixed]
    if selection.pairs:
        body.append(f"<h3>Pairs, {len(selection.pairs)} of {number(pairs)}</h3>")
        body.append(paragraph("The red frame is where the other image lies.", "soft"))
        body.append(gallery((_one_pair(*pair, pictures) for pair in selection.pairs), "pairs"))
    if selection.largest:
        body.append("<h3>Largest groups</h3>")
        body += [_one_group(group, pictures) for group in selection.largest]
    return Section(anchor, title, "\n".join(body), groups)


def _one_group(group: Group, pictures: Pictures) -> str:
    split = group.members[0].split
    mark = badge("validation", "val") if split == SPLITS[1] else badge("training")
    names = ", ".join(map(text, group.classes))
    summary = f"<b>{amount(len(group.members), 'image')}</b> of {names} {mark}"
    return fold(summary, _sheet(group.shown(), pictures, with_class=len(group.classes) > 1))


def _one_pair(pair: Pair, first: Sample, second: Sample, pictures: Pictures) -> str:
    factor, shift = cmath.rect(pair.scale, pair.rotation), complex(pair.x, pair.y)
    there = [factor * corner + shift for corner in _corners(second)]
    here = [(corner - shift) / factor for corner in _corners(first)] if factor else []
    figures = [
        figure(
            pictures.stored.picture(sample.key, _MIDDLE),
            hint=_hint(sample),
            drawing=polygon(outline),
        )
        for sample, outline in ((first, there), (second, here))
    ]
    names = text(first.class_name)
    if second.class_name != first.class_name:
        names = f"<b>{names} and {text(second.class_name)}</b>"
    caption = f"{names}, {pair.overlap_fraction:.0%} shared, scale {pair.scale:.2f}"
    return _pair("".join(figures), caption)


def _corners(sample: Sample) -> tuple[complex, ...]:
    width, height = sample.width, sample.height
    return 0j, complex(width, 0), complex(width, height), complex(0, height)


def _pair(figures: str, caption: str) -> str:
    return (
        f'<figure class="pair-box"><div class="pair">{figures}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _sheet(samples: Sequence[Sample], pictures: Pictures, *, with_class: bool = False) -> str:
    def one(sample: Sample) -> str:
        return figure(
            pictures.stored.picture(sample.key, _SMALL),
            hint=_hint(sample),
            kind=sample.split,
            caption=text(sample.class_name) if with_class else "",
        )

    with ThreadPoolExecutor(cores()) as pool:  # decoding and scaling leave Python's lock
        return gallery(pool.map(one, samples), "sheet")


def _about_originals(pictures: Pictures, shown: Sequence[Sample | Rejected]) -> str:
    """What to say where files of the sources are missing on the page."""
    if pictures.with_originals:
        missing = sum((one.source, one.path) not in pictures.originals for one in shown)
        gone = f"{amount(missing, 'file')} could not be shown: gone, unreadable or too large."
        return paragraph(gone, "soft") if missing else ""
    return paragraph(
        "Without the sources, their files cannot be shown: "
        "<code>python -m shards.report DIR --source PATH</code> makes this page with them.",
        "soft",
    )


def _hint(sample: Sample) -> str:
    where = _path(sample.source, sample.path)
    return f"{where} ({sample.width} x {sample.height} stored, {sample.split})"


def _name(source: str, path: str) -> str:
    return code(_path(source, path))


def _path(source: str, path: str) -> str:
    return f"{source}: {path}" if source else path
