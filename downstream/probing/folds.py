"""Labelled images in cross-validation folds that keep specimens together. Imports no torch.

A single image is cut into quarters; its scores are optimistic, since its pixels are similar.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from downstream.finetune.config import SegmentConfig
from downstream.finetune.labelled_set import read_pairs
from downstream.labels.classes import MaskClass
from downstream.labels.dataset import LabelledImage, check_classes_present
from downstream.labels.layout import DEFAULT_FOLDS, Pair, find_splits, hold_out
from downstream.labels.specimens import specimen_of
from micrograph.cli import UserError, warn


@dataclass(frozen=True, slots=True)
class FoldedSet:
    """Labelled images, and the ones that each fold holds out."""

    classes: tuple[MaskClass, ...]
    items: tuple[LabelledImage, ...]
    folds: tuple[tuple[int, ...], ...]  # indices of the held-out images
    specimens: bool  # whether no specimen is in two folds, judging by names
    quarters: bool  # whether the items are quarters of one image


def read_folds(config: SegmentConfig) -> FoldedSet:
    """Read training and validation images, but no test images.

    Raises `UserError` for missing pairs and for mask values without a class.
    """
    found = find_splits(config.data, config.entries)
    pairs = [
        pair for split in ("all", "train", "val") if split in found for pair in found[split].pairs
    ]
    if not pairs:
        raise UserError(f"no labelled images in {', '.join(config.train)} of {config.data}")
    classes, images = read_pairs(config, pairs)
    items = tuple(images[pair] for pair in pairs)
    check_classes_present(classes, items, items)
    if len(items) == 1:
        parts = _quarters(items[0])
        return FoldedSet(classes, parts, tuple((part,) for part in range(len(parts))), False, True)
    groups = {specimen_of(pair.name, config.specimen) or pair.name for pair in pairs}
    count = config.folds or min(DEFAULT_FOLDS, len(groups) if len(groups) > 1 else len(pairs))
    folds = tuple(_held_out(pairs, count, fold, config.specimen) for fold in range(count))
    return FoldedSet(classes, items, folds, len(groups) >= count, False)


def _held_out(
    pairs: Sequence[Pair], count: int, fold: int, specimen: str | None
) -> tuple[int, ...]:
    _, held = hold_out(pairs, count, fold, specimen)
    return tuple(pairs.index(pair) for pair in held)


def _quarters(item: LabelledImage) -> tuple[LabelledImage, ...]:
    warn(f"{item.name} is the only labelled image: its four quarters validate each other")
    height, width = (side // 2 for side in item.mask.shape)
    return tuple(
        replace(
            item,
            name=f"{item.name}, quarter {number + 1}",
            pixels=item.pixels[top : top + height, left : left + width],
            mask=item.mask[top : top + height, left : left + width],
        )
        for number, (top, left) in enumerate(
            (top, left)
            for top in (0, item.mask.shape[0] - height)
            for left in (0, item.mask.shape[1] - width)
        )
    )
