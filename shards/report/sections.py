"""The sections of the report with pictures: what was kept, cropped, found and rejected."""

import cmath
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from micrograph.cli import cores
from shards.report.html import Figure, FigurePair, Section, amount, line, polygon, rectangle
from shards.report.reject_reasons import REASONS, UNSEEN
from shards.report.selection import Group, Selection
from shards.report.thumbnails import Picture, SourcePath, StoredImages, Wanted
from shards.shard_format.read_tables import Pair, Sample, path_in_source
from shards.shard_format.schema import SPLITS, Manifest, Rejected

_SMALL, _MIDDLE, _LARGE = 112, 224, 300  # pixels, the longest side of a thumbnail


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures to show; `originals` are those of the wanted source files that can be read."""

    stored: StoredImages
    originals: Mapping[SourcePath, Picture]
    with_originals: bool  # whether the sources were given


def wanted_originals(selection: Selection) -> dict[SourcePath, Wanted]:
    """The source files that the report would show."""
    wanted = {
        (reject.source, reject.path): Wanted(_SMALL, stretch=reason == "mask")
        for reason, rejects in selection.rejects.items()
        if reason not in UNSEEN
        for reject in rejects
    }
    return wanted | {(s.source, s.path): Wanted(_MIDDLE) for s in selection.bars}


def picture_sections(selection: Selection, manifest: Manifest) -> dict[str, Section]:
    """The sections with pictures, in the order of the page."""
    found = manifest.decisions
    return {
        "classes": Section("Classes", len(selection.sheets)),
        "rejects": Section("Rejects", sum(manifest.rejected.values())),
        "data-bars": Section("Data bars", found.get("data_bar_cropped", 0)),
        "annotations": Section("Annotations", found.get("annotations_found", 0)),
        "groups": Section("Near-duplicates and groups", found.get("groups", 0)),
    }


def picture_context(selection: Selection, manifest: Manifest, pictures: Pictures) -> dict[str, Any]:
    """What the template shows in these sections."""
    return {
        "with_originals": pictures.with_originals,
        "sheets": [
            {
                "name": name,
                "label": label,
                **{split: manifest.splits[split].class_counts[label] for split in SPLITS},
                "figures": _sheet(samples, pictures),
            }
            for label, (name, samples) in enumerate(selection.sheets.items())
            if samples
        ],
        "rejects": [
            _reason(reason, count, selection.rejects.get(reason, ()), pictures)
            for reason, count in sorted(manifest.rejected.items(), key=lambda i: (-i[1], i[0]))
        ],
        "cropped": [_cropped(sample, pictures) for sample in selection.bars],
        "annotated": [_annotated(sample, pictures) for sample in selection.annotated],
        "overlaps": [_overlap(*pair, pictures) for pair in selection.pairs],
        "mixed_groups": [_group(group, pictures) for group in selection.mixed],
        "largest_groups": [_group(group, pictures) for group in selection.largest],
    }


def _reason(
    reason: str, count: int, shown: Sequence[Rejected], pictures: Pictures
) -> dict[str, Any]:
    meaning, advice = REASONS.get(reason, ("", ""))
    unseen = reason in UNSEEN
    return {
        "name": reason,
        "count": count,
        "meaning": meaning,
        "advice": advice,
        "shown": len(shown),
        "files": [(path_in_source(r), r.detail) for r in shown] if unseen else [],
        "figures": [] if unseen else [_rejected(reject, pictures) for reject in shown],
    }


def _rejected(reject: Rejected, pictures: Pictures) -> Figure:
    name = path_in_source(reject)
    picture = pictures.originals.get((reject.source, reject.path))
    return Figure(picture=picture, hint=name, name=name, caption=reject.detail)


def _cropped(sample: Sample, pictures: Pictures) -> FigurePair:
    """The file with its cut, where the sources are given, and what is stored."""
    edge, row, of = sample.bar or ("bottom", 0, 1)
    name = path_in_source(sample)
    figures = [Figure(picture=pictures.stored.picture(sample.key, _MIDDLE), hint=_hint(sample))]
    if pictures.with_originals:
        before = pictures.originals.get((sample.source, sample.path))
        shapes = []
        if before is not None:
            cut = before.height * row / of
            top, bottom = (cut, before.height) if edge == "bottom" else (0, cut)
            shapes.append(rectangle(0, top, before.width, bottom, "cut"))
            shapes.append(line(0, cut, before.width, cut))
        figures.insert(0, Figure(picture=before, hint=name, shapes=shapes))
    caption = f"{edge} bar, cut at row {row} of {of}"
    return FigurePair(figures=figures, name=name, caption=caption)


def _annotated(sample: Sample, pictures: Pictures) -> Figure:
    margin = max(sample.height, sample.width) / 150  # the frame around the mark, not on it
    return Figure(
        picture=pictures.stored.picture(sample.key, _LARGE),
        hint=_hint(sample),
        shapes=[
            rectangle(left - margin, top - margin, right + margin, bottom + margin)
            for top, left, bottom, right in _boxes(sample, pictures.stored)
        ],
        caption=f"{sample.class_name}, {amount(sample.annotations, 'mark')}",
    )


def _boxes(sample: Sample, stored: StoredImages) -> list[tuple[float, ...]]:
    """Top, left, bottom, right in pixels of the stored image."""
    try:
        annotations = json.loads(stored.provenance(sample.key))["annotations"]
        scale = sample.height / float(annotations["of"][0])
        return [tuple(float(side) * scale for side in box) for box in annotations["boxes"]]
    except (KeyError, IndexError, TypeError, ValueError):  # damaged: shards.verify reports it
        return []


def _group(group: Group, pictures: Pictures) -> dict[str, Any]:
    return {
        "size": len(group.members),
        "classes": group.classes,
        "validates": group.members[0].split == SPLITS[1],
        "figures": _sheet(group.shown(), pictures, with_class=len(group.classes) > 1),
    }


def _overlap(pair: Pair, first: Sample, second: Sample, pictures: Pictures) -> FigurePair:
    """Two images, each with the outline of the other."""
    factor, shift = cmath.rect(pair.scale, pair.rotation), complex(pair.x, pair.y)
    there = [factor * corner + shift for corner in _corners(second)]
    here = [(corner - shift) / factor for corner in _corners(first)] if factor else []
    numbers = f", {pair.overlap_fraction:.0%} shared, scale {pair.scale:.2f}"
    alike = first.class_name == second.class_name
    return FigurePair(
        figures=[
            Figure(
                picture=pictures.stored.picture(sample.key, _MIDDLE),
                hint=_hint(sample),
                shapes=[polygon(outline)],
            )
            for sample, outline in ((first, there), (second, here))
        ],
        strong="" if alike else f"{first.class_name} and {second.class_name}",
        caption=first.class_name + numbers if alike else numbers,
    )


def _corners(sample: Sample) -> tuple[complex, ...]:
    width, height = sample.width, sample.height
    return 0j, complex(width, 0), complex(width, height), complex(0, height)


def _sheet(
    samples: Sequence[Sample], pictures: Pictures, *, with_class: bool = False
) -> list[Figure]:
    def one(sample: Sample) -> Figure:
        return Figure(
            picture=pictures.stored.picture(sample.key, _SMALL),
            hint=_hint(sample),
            kind=sample.split,
            caption=sample.class_name if with_class else "",
        )

    with ThreadPoolExecutor(cores()) as pool:  # decoding and scaling release the GIL
        return list(pool.map(one, samples))


def _hint(sample: Sample) -> str:
    return f"{path_in_source(sample)} ({sample.width} x {sample.height} stored, {sample.split})"
