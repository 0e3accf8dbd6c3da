"""Labelled micrographs in memory: paired, split, their masks translated or refused. No torch."""

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from downstream.config import SegmentConfig
from downstream.seg.classes import MaskClass, parse_classes
from downstream.seg.layout import SPLITS, Found, Pair, find_splits, hold_out
from downstream.seg.masks import Mask, RawMask, mask_to_indices, read_mask
from downstream.seg.proposal import Proposal, propose_classes
from shards.cli import UserError, warn
from shards.images import Pixels, RejectedImage, decode_image


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A micrograph and its mask."""

    name: str
    pixels: Pixels  # (H, W, 3) uint8
    mask: Mask  # (H, W), class indices


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
    """Read what `config` names. Raises `UserError` for missing pairs and meaningless masks."""
    pairs = split_pairs(config)
    masks = {pair: read_mask(pair.mask) for split in SPLITS for pair in pairs[split]}
    classes = known_classes(config, masks.values())
    splits = {
        split: tuple(labelled(pair, masks[pair], classes) for pair in pairs[split])
        for split in SPLITS
    }
    everything = [item for items in splits.values() for item in items]
    check_presence(classes, everything, splits["train"])
    return LabelledSet(classes, **splits)


def data_sha256(data: LabelledSet) -> str:
    """A hash of all pixels and labels, split by split: two runs with one hash saw the same."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for item in getattr(data, split):
            digest.update(f"{split} {item.name} {item.pixels.shape}".encode())
            digest.update(item.pixels.tobytes())
            digest.update(item.mask.astype(np.uint8).tobytes())
    return digest.hexdigest()


def split_pairs(config: SegmentConfig) -> dict[str, tuple[Pair, ...]]:
    """The pairs of each split, folds applied. Raises `UserError` for an image without its mask."""
    found = find_splits(config.data, config.entries)
    _report_unpaired(config, found)
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


def known_classes(config: SegmentConfig, masks: Iterable[RawMask]) -> tuple[MaskClass, ...]:
    """The classes that the user named, or those that index masks speak of by themselves.

    Raises `UserError` with the mapping proposed where the user must say what values mean.
    """
    if config.classes:
        return parse_classes(config.classes)
    proposal = propose_classes(masks)
    if not proposal.certain:
        raise UserError(refusal(proposal))
    return proposal.classes


def refusal(proposal: Proposal) -> str:
    """Why masks are not used before the user has said what they mean, and how to say it."""
    return (
        f"the masks hold {proposal.found}; say what they mean, such as: {proposal.flags} "
        "(python -m downstream.check shows it)"
    )


def labelled(pair: Pair, mask: RawMask, classes: tuple[MaskClass, ...]) -> LabelledImage:
    """Decode an image and translate its mask. Raises `UserError` where they do not fit."""
    pixels = read_pixels(pair.image)
    height, width = mask.values.shape[:2]
    if pixels.shape[:2] != (height, width):
        raise UserError(
            f"{pair.image} is {pixels.shape[1]} x {pixels.shape[0]} pixels, its mask "
            f"{width} x {height}; export the mask at the size of the image"
        )
    return LabelledImage(pair.name, pixels, mask_to_indices(mask, classes, pixels))


def read_pixels(path: Path) -> Pixels:
    """An image as a network takes it: `(H, W, 3)` uint8. Raises `UserError`.

    Of 16 bits per colour the upper 8 are taken, as OpenCV does for paper A: two test images of its
    Super-4 are such. Other depths are windowed (`shards.images`).
    """
    data = path.read_bytes()
    try:
        pixels = decode_image(data).pixels
    except RejectedImage as reject:
        if reject.reason != "deep_colour":
            raise UserError(f"cannot read {path}: {reject.detail}") from reject
        warn(f"{path.name} has 16 bits per colour; the upper 8 are used")
        pixels = upper_bits(data)
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def upper_bits(data: bytes) -> Pixels:
    """The upper 8 bits `(H, W, 3)` of an image of 16 bits per colour."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))  # writable, as torch wants it


def check_presence(
    classes: tuple[MaskClass, ...],
    everything: Iterable[LabelledImage],
    train: Iterable[LabelledImage],
) -> None:
    """Raise `UserError` for a class that no mask holds; warn of one that training never sees."""
    present = _present(everything)
    trained = _present(train)
    absent = [entry.name for index, entry in enumerate(classes) if index not in present]
    if absent:
        raise UserError(
            f"no mask holds {', '.join(absent)}; is its value right? (0/255 masks need "
            "NAME=255; python -m downstream.check says what the masks hold)"
        )
    for index in sorted(present - trained):
        warn(f"no training mask holds {classes[index].name}: it cannot be learnt")


def _present(items: Iterable[LabelledImage]) -> set[int]:
    return {int(index) for item in items for index in np.unique(item.mask)}


def _report_unpaired(config: SegmentConfig, found: Mapping[str, Found]) -> None:
    for split, part in found.items():
        if part.orphans:
            names = ", ".join(path.name for path in part.orphans[:3])
            warn(f"{split}: {len(part.orphans)} masks have no image and are not used: {names}")
        if part.unlabelled and split == "all":
            warn(f"{len(part.unlabelled)} images have no mask and are not used")
        elif part.unlabelled:
            path = part.unlabelled[0]
            raise UserError(
                f"{path} has no mask: wanted {path.name} or {path.stem}_mask in "
                f"{path.parent.name}_annot; or list the labelled images with --{split}"
            )
