"""The split of a corpus: settings and groups become sides, and what groups prevented is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.catalog import Catalog
from shards.cli import UserError
from shards.grouping import Grouping
from shards.mosaic import cut_mosaic, lay_out
from shards.schema import SAMPLES_NAME, read_rows
from shards.settings import nearest
from shards.split import (
    LEFT_OUT,
    TRAIN,
    VAL,
    Population,
    Sides,
    SplitRule,
    apply_saved,
    draw_folds,
    draw_validation,
    hold_out,
    share_targets,
    training_only,
    validation_targets,
    withdraw,
)

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitOptions:
    """How to split; which of the values count depends on `rule`."""

    rule: SplitRule
    per_class: int
    max_share: float
    share: float
    folds: int
    fold: int
    val_source: str | None
    file: Path | None
    cut_overlaps: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """Per image of the catalog: its side (LEFT_OUT where it was not kept) and its fold, or -1.

    `short` lists (label, images in validation, wanted) of the classes that got less than asked for,
    `trains_only` those with too few or none, `validates_only` those of which nothing trains, `cut`
    the mosaics that were cut: (label, validating, left out).
    """

    sides: Sides
    folds: _Ints
    short: tuple[tuple[int, int, int], ...] = ()
    trains_only: tuple[int, ...] = ()
    validates_only: tuple[int, ...] = ()
    cut: tuple[tuple[int, int, int], ...] = ()
    left_out: tuple[int, ...] = ()

    def report(self, options: SplitOptions, classes: Sequence[str]) -> dict[str, Any]:
        """For the manifest."""
        cut = {classes[label]: {"val": val, "left_out": out} for label, val, out in self.cut}
        return {
            "rule": options.rule,
            "training_only": [classes[label] for label in self.trains_only],
            "validation_only": [classes[label] for label in self.validates_only],
            "cut": cut,
            "left_out": len(self.left_out),
        }


def assign(
    catalog: Catalog,
    grouping: Grouping,
    sources: Sequence[str],
    classes: int,
    options: SplitOptions,
) -> Assignment:
    """Split the kept images of `catalog`. Raises `UserError` for a rule that does not fit it."""
    kept = np.flatnonzero(grouping.kept)
    keys = catalog.keys()
    population = Population(
        keys=[keys[i] for i in kept],
        labels=catalog.records["label"][kept].astype(np.int64),
        groups=grouping.groups[kept],
        classes=classes,
    )
    folds = np.full(len(keys), -1, np.int64)
    if options.rule == "folds":
        folds[kept] = draw_folds(population, options.folds, options.seed)
        sides = np.where(folds[kept] == options.fold, np.int8(VAL), np.int8(TRAIN))
    elif options.rule == "source":
        held = catalog.records["source"][kept] == _source_number(options.val_source, sources)
        sides = hold_out(population, held)
    elif options.rule == "file":
        saved = _read_saved(options.file)
        if not any(saved.get(key) == "val" for key in keys):
            raise UserError(
                f"{options.file} names no validation image of this corpus; did its sources, "
                "folders or classes have other names?"
            )
        sides = apply_saved(keys, saved, grouping.bonds)[kept]  # a copy may be the one it knows
    else:
        return _draw(catalog, grouping, population, kept, options)
    train, val = (
        np.bincount(population.labels[sides == side], minlength=classes) for side in (TRAIN, VAL)
    )
    if not train.any() or not val.any():
        raise UserError(f"split {options.rule} leaves no images for training, or for validation")
    return _spread(
        sides,
        kept,
        len(keys),
        folds,
        trains_only=tuple(np.flatnonzero((val == 0) & (train > 0)).tolist()),
        validates_only=tuple(np.flatnonzero((train == 0) & (val > 0)).tolist()),
    )


def check_options(options: SplitOptions, sources: Sequence[str]) -> None:
    """Raise `UserError` for options that cannot be met, before hours are spent on the images."""
    if options.rule == "source":
        _source_number(options.val_source, sources)
    if options.rule == "file":
        _read_saved(options.file)


def _read_saved(path: Path | None) -> dict[str, str]:
    """Key -> split of an earlier set's samples.csv (or of the folder that holds it)."""
    if path is None:
        raise UserError("split file needs --split-file: the samples.csv of an earlier set")
    path = path / SAMPLES_NAME if path.is_dir() else path
    return {row["key"]: row["split"] for row in read_rows(path)}


def _draw(
    catalog: Catalog,
    grouping: Grouping,
    population: Population,
    kept: _Ints,
    options: SplitOptions,
) -> Assignment:
    sizes = population.class_sizes()
    if options.rule == "share":
        targets = share_targets(sizes, options.share)
    else:
        targets = validation_targets(sizes, options.per_class, options.max_share)
    sides = draw_validation(population, targets, options.seed)
    cut = []
    if options.cut_overlaps:
        for label in training_only(population, sides, targets):
            cut.append(_cut_mosaics(catalog, grouping, kept, sides, label, int(targets[label])))
    trains_only = training_only(population, sides, targets)
    sides = withdraw(population, sides, trains_only)
    cut = [entry for entry in cut if entry[0] not in trains_only and entry[1]]
    drawn = np.bincount(population.labels[sides == VAL], minlength=population.classes)
    wanted = _wanted(sizes, options)
    short = [(n, int(d), int(w)) for n, (d, w) in enumerate(zip(drawn, wanted, strict=True))]
    return _spread(
        sides,
        kept,
        len(catalog.records),
        np.full(len(catalog.records), -1, np.int64),
        short=tuple(entry for entry in short if entry[1] < entry[2]),
        trains_only=trains_only,
        cut=tuple(cut),
    )


def _wanted(sizes: _Ints, options: SplitOptions) -> _Ints:
    """What a person asked for, before small classes gave less."""
    if options.rule == "share":
        return share_targets(sizes, options.share)
    return np.full(len(sizes), options.per_class, np.int64)


def _cut_mosaics(
    catalog: Catalog, grouping: Grouping, kept: _Ints, sides: Sides, label: int, target: int
) -> tuple[int, int, int]:
    """Cut the class's groups in space, the largest first, until `target` validate.

    Changes `sides`; returns label, images put into validation, images left out. A group that a
    source has named, or that holds other classes, is no mosaic.
    """
    labels, groups = catalog.records["label"][kept], grouping.groups[kept]
    barred = groups[(labels != label) | grouping.specimens[kept]]
    free = (labels == label) & ~np.isin(groups, barred) & (sides == TRAIN)
    names, sizes = np.unique(groups[free], return_counts=True)
    missing = target - int(((labels == label) & (sides == VAL)).sum())
    validating = left_out = 0
    for group in names[np.argsort(-sizes, kind="stable")]:
        if validating >= missing:
            break
        inside = np.flatnonzero(groups == group)
        drawn = _cut_one(catalog, grouping, kept[inside], missing - validating)
        sides[inside] = drawn
        validating += int((drawn == VAL).sum())
        left_out += int((drawn == LEFT_OUT).sum())
    return label, validating, left_out


def _cut_one(catalog: Catalog, grouping: Grouping, members: _Ints, missing: int) -> Sides:
    pairs = grouping.overlaps[np.isin(grouping.overlaps["first"], members)]
    if len(members) < 3 or not _binds_all(members, pairs):
        return np.full(len(members), TRAIN, np.int8)
    found = np.stack([np.searchsorted(members, pairs[end]) for end in ("first", "second")], axis=1)
    rows = catalog.records[members]
    boxes = lay_out(members, np.stack([rows["height"], rows["width"]], axis=1), pairs)
    return cut_mosaic(boxes, found, missing)


def _binds_all(members: _Ints, pairs: npt.NDArray[np.void]) -> bool:
    """Whether the overlaps alone hold the group together: exact copies may have done it too."""
    seen, fresh = set(), {int(members[0])}
    while fresh:
        seen |= fresh
        touching = np.isin(pairs["first"], list(fresh)) | np.isin(pairs["second"], list(fresh))
        near = pairs[touching]
        fresh = set(near["first"].tolist()) | set(near["second"].tolist())
        fresh -= seen
    return len(seen) == len(members)


def _source_number(name: str | None, sources: Sequence[str]) -> int:
    if name is None or name not in sources:
        like = nearest(name or "", [source for source in sources if source])
        hint = f"nearest is {like!r}" if like else f"there are {', '.join(sources) or 'none'}"
        raise UserError(f"split source needs --val-source, a source of the corpus; {hint}")
    return sources.index(name)


def _spread(sides: Sides, kept: _Ints, images: int, folds: _Ints, **report: Any) -> Assignment:
    everywhere = np.full(images, LEFT_OUT, np.int8)
    everywhere[kept] = sides
    left_out = tuple(kept[sides == LEFT_OUT].tolist())
    return Assignment(everywhere, folds, left_out=left_out, **report)
