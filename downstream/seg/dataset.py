"""Read labelled micrographs: pair images with masks, split them, check the masks. No torch."""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from downstream.config import SegmentConfig
from downstream.seg.classes import MaskClass, parse_classes
from downstream.seg.layout import SPLITS, Pair, SplitFiles, find_splits, hold_out
from downstream.seg.masks import Mask, RawMask, mask_to_indices, read_mask
from downstream.seg.proposal import ClassProposal, propose_classes
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
    """Read the images of a run. Raises `UserError` for missing pairs and unclear masks."""
    pairs = split_pairs(config)
    masks = {pair: read_mask(pair.mask) for split in SPLITS for pair in pairs[split]}
    classes = resolve_classes(config, masks.values())
    splits = {
        split: tuple(read_labelled_image(pair, masks[pair], classes) for pair in pairs[split])
        for split in SPLITS
    }
    everything = [item for items in splits.values() for item in items]
    check_classes_present(classes, everything, splits["train"])
    return LabelledSet(classes, **splits)


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


def resolve_classes(config: SegmentConfig, masks: Iterable[RawMask]) -> tuple[MaskClass, ...]:
    """The classes of the settings, or those of masks with the indices 0, 1, 2 ….

    Raises `UserError`, with a proposed mapping, for masks with other values.
    """
    if config.classes:
        return parse_classes(config.classes)
    proposal = propose_classes(masks)
    if not proposal.certain:
        raise UserError(unclear_masks_message(proposal))
    return proposal.classes


def unclear_masks_message(proposal: ClassProposal) -> str:
    """Ask the user to define the classes, with a proposal."""
    return (
        f"the masks contain {proposal.found}; define their meaning, such as: {proposal.flags} "
        "(python -m downstream.check shows it)"
    )


def read_labelled_image(pair: Pair, mask: RawMask, classes: tuple[MaskClass, ...]) -> LabelledImage:
    """Read an image and map its mask to classes. Raises `UserError` if their sizes differ."""
    pixels = read_pixels(pair.image)
    height, width = mask.values.shape[:2]
    if pixels.shape[:2] != (height, width):
        raise UserError(
            f"{pair.image} has {pixels.shape[1]} x {pixels.shape[0]} pixels but its mask has "
            f"{width} x {height}; export the mask at the size of the image"
        )
    return LabelledImage(pair.name, pixels, mask_to_indices(mask, classes, pixels))


def read_pixels(path: Path) -> Pixels:
    """An image `(H, W, 3)` uint8 for a network. Raises `UserError` if it cannot be read.

    RGB with 16 bits per channel is reduced to the upper 8 bits, as OpenCV does for paper A (two
    test images of its Super-4). Grey images of other depths are windowed (`shards.images`).
    """
    data = path.read_bytes()
    try:
        pixels = decode_image(data).pixels
    except RejectedImage as reject:
        if reject.reason != "deep_colour":
            raise UserError(f"cannot read {path}: {reject.detail}") from reject
        warn(f"{path.name} has 16 bits per channel; only the upper 8 are used")
        pixels = upper_bits(data)
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def upper_bits(data: bytes) -> Pixels:
    """The upper 8 bits `(H, W, 3)` of an RGB image with 16 bits per channel."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))  # writable, as torch requires


def check_classes_present(
    classes: tuple[MaskClass, ...],
    everything: Iterable[LabelledImage],
    train: Iterable[LabelledImage],
) -> None:
    """Raise `UserError` for a class without a pixel; warn of one without a training pixel."""
    names = [entry.name for entry in classes]
    require_classes(names, [item.mask for item in everything])
    trained = _present(item.mask for item in train)
    for index, name in enumerate(names):
        if index not in trained:
            warn(f"no training mask contains {name}: it cannot be learnt")


def require_classes(
    names: Sequence[str], masks: Iterable[npt.NDArray[Any]], domain: str = ""
) -> None:
    """Raise `UserError` for a class that no mask of class indices contains."""
    present = _present(masks)
    absent = [name for index, name in enumerate(names) if index not in present]
    if absent:
        raise UserError(
            f"no mask{domain and ' of '}{domain} contains {', '.join(absent)}; is its value right? "
            "(0/255 masks need NAME=255; python -m downstream.check lists the values)"
        )


def _present(masks: Iterable[npt.NDArray[Any]]) -> set[int]:
    return {int(index) for mask in masks for index in np.unique(mask)}


def _report_unpaired(config: SegmentConfig, found: Mapping[str, SplitFiles]) -> None:
    for split, part in found.items():
        if part.orphans:
            names = ", ".join(path.name for path in part.orphans[:3])
            warn(f"{split}: {len(part.orphans)} masks without an image are not used: {names}")
        if part.unlabelled and split == "all":
            warn(f"{len(part.unlabelled)} images without a mask are not used")
        elif part.unlabelled:
            path = part.unlabelled[0]
            raise UserError(
                f"{path} has no mask; expected {path.name} or {path.stem}_mask in "
                f"{path.parent.name}_annot; or list the labelled images with --{split}"
            )
