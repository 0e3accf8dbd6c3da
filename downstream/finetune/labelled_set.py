"""The labelled images of a run: read, split, checked."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from downstream.finetune.config import SegmentConfig
from downstream.labels.classes import MaskClass, parse_classes
from downstream.labels.dataset import (
    LabelledImage,
    check_classes_present,
    read_labelled_image,
    unclear_masks_message,
)
from downstream.labels.layout import SPLITS, Pair, SplitFiles, find_splits, hold_out
from downstream.labels.masks import read_mask
from downstream.labels.propose_classes import propose_classes
from micrograph.cli import UserError, warn


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """The labelled images of each split; `test` may be empty."""

    classes: tuple[MaskClass, ...]
    train: tuple[LabelledImage, ...]
    val: tuple[LabelledImage, ...]
    test: tuple[LabelledImage, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.classes)


def read_labelled_set(config: SegmentConfig) -> LabelledSet:
    """Read the images of a run. Raises `UserError` for missing pairs and unclear masks."""
    pairs = split_pairs(config)
    classes, images = read_pairs(config, [pair for split in SPLITS for pair in pairs[split]])
    splits = {split: tuple(images[pair] for pair in pairs[split]) for split in SPLITS}
    check_classes_present(classes, images.values(), splits["train"])
    return LabelledSet(classes, **splits)


def read_pairs(
    config: SegmentConfig, pairs: Iterable[Pair]
) -> tuple[tuple[MaskClass, ...], dict[Pair, LabelledImage]]:
    """Read images and masks. The classes are those of the settings, or the indices 0, 1, 2 ….

    Raises `UserError`, with a proposed mapping, for masks with other values.
    """
    masks = {pair: read_mask(pair.mask) for pair in pairs}
    classes = parse_classes(config.classes) if config.classes else ()
    if not classes:
        proposal = propose_classes(masks.values())
        if not proposal.certain:
            raise UserError(unclear_masks_message(proposal))
        classes = proposal.classes
    return classes, {p: read_labelled_image(p, mask, classes) for p, mask in masks.items()}


def data_sha256(data: LabelledSet) -> str:
    """A hash of all pixels and labels by split: runs with equal hashes saw the same data."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for item in getattr(data, split):
            digest.update(f"{split} {item.name} {item.pixels.shape}".encode())
            digest.update(item.pixels.tobytes())
            digest.update(item.mask.astype(np.uint8).tobytes())
    return digest.hexdigest()


def split_pairs(config: SegmentConfig) -> dict[str, tuple[Pair, ...]]:
    """The pairs of each split, after folding. Raises `UserError` for an image without a mask."""
    found = find_splits(config.data, config.entries)
    faults, warnings = describe_unpaired(found)
    for warning in warnings:
        warn(warning)
    if faults:
        raise UserError(faults[0])
    if "all" in found:
        train, val = hold_out(found["all"].pairs, config.folds, config.fold, config.specimen)
        return {"train": train, "val": val, "test": ()}
    pairs = {split: found[split].pairs for split in SPLITS}
    if config.folds or not pairs["val"]:
        train, val = hold_out(
            pairs["train"] + pairs["val"], config.folds, config.fold, config.specimen
        )
        pairs |= {"train": train, "val": val}
    if not pairs["train"]:
        raise UserError(f"no labelled images in {', '.join(config.train)} of {config.data}")
    return pairs


def describe_unpaired(found: Mapping[str, SplitFiles]) -> tuple[list[str], list[str]]:
    """Faults and warnings about images without a mask and masks without an image."""
    faults, warnings = [], []
    for split, part in found.items():
        if part.orphans:
            names = ", ".join(path.name for path in part.orphans[:3])
            warnings.append(f"{split}: {len(part.orphans)} masks without an image: {names}")
        if part.unlabelled and split == "all":
            warnings.append(f"{len(part.unlabelled)} images without a mask are not used")
        elif part.unlabelled:
            faults += [
                f"{path} has no mask; expected {path.name} or {path.stem}_mask in "
                f"{path.parent.name}_annot; or list the labelled images with --{split}"
                for path in part.unlabelled
            ]
    return faults, warnings
