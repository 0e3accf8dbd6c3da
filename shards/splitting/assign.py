"""Split a corpus by its settings and groups, and report what the groups prevented."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from micrograph.cli import UserError
from micrograph.settings import nearest_hint
from shards.encoding.spool import Catalog
from shards.images.components import components
from shards.shard_format.config import SplitRule, WriteConfig
from shards.shard_format.schema import SAMPLES_NAME, read_rows
from shards.splitting.groups import Grouping
from shards.splitting.mosaic import cut_mosaic, lay_out
from shards.splitting.rules import (
    LEFT_OUT,
    SPLIT_NAMES,
    TRAIN,
    VAL,
    Assignment,
    Population,
    apply_saved,
    draw_folds,
    draw_validation,
    hold_out,
    return_to_train,
    share_targets,
    training_only,
    validation_targets,
)

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Per image of the catalog: its assignment (LEFT_OUT where it was not kept), its fold or -1.

    `short` lists (label, validation images, wanted) of the classes that got fewer than asked for,
    `trains_only` those with too few or none, `validates_only` those without training images, `cut`
    the mosaics that were cut: (label, validating, left out).
    """

    assignment: Assignment
    folds: _Ints
    short: tuple[tuple[int, int, int], ...] = ()
    trains_only: tuple[int, ...] = ()
    validates_only: tuple[int, ...] = ()
    cut: tuple[tuple[int, int, int], ...] = ()
    left_out: tuple[int, ...] = ()

    def written(self) -> npt.NDArray[np.bool_]:
        """Whether each image goes into a tar."""
        return np.asarray(self.assignment != LEFT_OUT)

    def report(self, rule: SplitRule, classes: Sequence[str]) -> dict[str, Any]:
        """For the manifest."""
        cut = {classes[label]: {"val": val, "left_out": out} for label, val, out in self.cut}
        return {
            "rule": rule,
            "training_only": [classes[label] for label in self.trains_only],
            "validation_only": [classes[label] for label in self.validates_only],
            "cut": cut,
            "left_out": len(self.left_out),
        }


def split_images(
    catalog: Catalog,
    grouping: Grouping,
    sources: Sequence[str],
    classes: int,
    config: WriteConfig,
) -> Split:
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
    if config.split == "folds":
        folds[kept] = draw_folds(population, config.folds, config.seed)
        assignment = np.where(folds[kept] == config.fold, np.int8(VAL), np.int8(TRAIN))
    elif config.split == "source":
        held = catalog.records["source"][kept] == _source_number(config.val_source, sources)
        assignment = hold_out(population, held)
    elif config.split == "file":
        saved = _read_saved(config.split_file)
        if not any(saved.get(key) == VAL for key in keys):
            raise UserError(
                f"{config.split_file} names no validation image of this corpus; did its sources, "
                "folders or classes have other names?"
            )
        # Of all images: the earlier set may have kept what is a rejected copy here.
        assignment = apply_saved(keys, saved, grouping.edges)[kept]
    else:
        return _draw(catalog, grouping, population, kept, config)
    train, val = (
        np.bincount(population.labels[assignment == split], minlength=classes)
        for split in (TRAIN, VAL)
    )
    if not train.any() or not val.any():
        raise UserError(f"split {config.split} leaves no images for training, or for validation")
    return _for_all_images(
        assignment,
        kept,
        folds,
        trains_only=tuple(np.flatnonzero((val == 0) & (train > 0)).tolist()),
        validates_only=tuple(np.flatnonzero((train == 0) & (val > 0)).tolist()),
    )


def check_split(config: WriteConfig, sources: Sequence[str]) -> None:
    """Raise `UserError` for a rule that cannot be met, before hours are spent on the images."""
    if config.split == "source":
        _source_number(config.val_source, sources)
    if config.split == "file":
        _read_saved(config.split_file)


def _read_saved(path: Path | None) -> dict[str, int]:
    """Key -> split of an earlier set's samples.csv (or of the folder that holds it)."""
    if path is None:
        raise UserError("split file needs --split-file: the samples.csv of an earlier set")
    path = path / SAMPLES_NAME if path.is_dir() else path
    try:
        return {row["key"]: SPLIT_NAMES.index(row["split"]) for row in read_rows(path)}
    except ValueError:
        raise UserError(f"{path}: split must be one of {', '.join(SPLIT_NAMES)}") from None


def _draw(
    catalog: Catalog,
    grouping: Grouping,
    population: Population,
    kept: _Ints,
    config: WriteConfig,
) -> Split:
    sizes = population.class_sizes()
    if config.split == "share":
        wanted = targets = share_targets(sizes, config.val_share)
    else:
        wanted = np.full(len(sizes), config.val_per_class)  # before small classes give less
        targets = validation_targets(sizes, config.val_per_class, config.max_val_share)
    assignment = draw_validation(population, targets, config.seed)
    cut = []
    if config.split_overlaps:
        for label in training_only(population, assignment, targets):
            target = int(targets[label])
            cut.append(_cut_mosaics(catalog, grouping, kept, assignment, label, target))
    trains_only = training_only(population, assignment, targets)
    assignment = return_to_train(population, assignment, trains_only)
    cut = [entry for entry in cut if entry[0] not in trains_only and entry[1]]
    drawn = np.bincount(population.labels[assignment == VAL], minlength=population.classes)
    counts = [(n, int(d), int(w)) for n, (d, w) in enumerate(zip(drawn, wanted, strict=True))]
    return _for_all_images(
        assignment,
        kept,
        np.full(len(catalog.records), -1, np.int64),
        short=tuple(entry for entry in counts if entry[1] < entry[2]),
        trains_only=trains_only,
        cut=tuple(cut),
    )


def _cut_mosaics(
    catalog: Catalog,
    grouping: Grouping,
    kept: _Ints,
    assignment: Assignment,
    label: int,
    target: int,
) -> tuple[int, int, int]:
    """Cut the class's groups in space, the largest first, until `target` validate.

    Changes `assignment`; returns label, images put into validation, images left out. A group with a
    specimen that its source names, or with other classes, is not a mosaic.
    """
    labels, groups = catalog.records["label"][kept], grouping.groups[kept]
    barred = groups[(labels != label) | grouping.specimens[kept]]
    free = (labels == label) & ~np.isin(groups, barred) & (assignment == TRAIN)
    names, sizes = np.unique(groups[free], return_counts=True)
    missing = target - int(((labels == label) & (assignment == VAL)).sum())
    validating = left_out = 0
    for group in names[np.argsort(-sizes, kind="stable")]:
        if validating >= missing:
            break
        inside = np.flatnonzero(groups == group)
        drawn = _cut_one(catalog, grouping, kept[inside], missing - validating)
        assignment[inside] = drawn
        validating += int((drawn == VAL).sum())
        left_out += int((drawn == LEFT_OUT).sum())
    return label, validating, left_out


def _cut_one(catalog: Catalog, grouping: Grouping, members: _Ints, missing: int) -> Assignment:
    pairs = grouping.overlaps[np.isin(grouping.overlaps["first"], members)]
    found = np.stack([np.searchsorted(members, pairs[end]) for end in ("first", "second")], axis=1)
    # Exact copies may have connected what overlaps alone do not.
    if len(members) < 3 or components(len(members), found[:, 0], found[:, 1]).any():
        return np.full(len(members), TRAIN, np.int8)
    rows = catalog.records[members]
    boxes = lay_out(members, np.stack([rows["height"], rows["width"]], axis=1), pairs)
    return cut_mosaic(boxes, found, missing)


def _source_number(name: str | None, sources: Sequence[str]) -> int:
    if name is None or name not in sources:
        hint = nearest_hint(name or "", [source for source in sources if source])
        raise UserError(f"split source needs --val-source, a source of the corpus; {hint}")
    return sources.index(name)


def _for_all_images(assignment: Assignment, kept: _Ints, folds: _Ints, **report: Any) -> Split:
    everywhere = np.full(len(folds), LEFT_OUT, np.int8)
    everywhere[kept] = assignment
    left_out = tuple(kept[assignment == LEFT_OUT].tolist())
    return Split(everywhere, folds, left_out=left_out, **report)
