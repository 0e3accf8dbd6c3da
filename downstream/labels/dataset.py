"""Read labelled micrographs and check their classes. Imports no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from downstream.images.deep_colour import upper_bits
from downstream.labels.classes import MaskClass
from downstream.labels.layout import Pair
from downstream.labels.masks import Mask, RawMask, mask_to_indices
from downstream.labels.propose_classes import ClassProposal
from micrograph.cli import UserError, warn
from shards.images.decode import Pixels, RejectedImage, decode_image


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A micrograph and its mask."""

    name: str
    pixels: Pixels  # (H, W, 3) uint8
    mask: Mask  # (H, W), class indices


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
    test images of its Super-4). Grey images of other depths are windowed (`shards.images.decode`).
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
