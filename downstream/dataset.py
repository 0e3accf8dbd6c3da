"""Labelled micrographs: images and masks paired by name, mask values given a meaning or refused.

DATA/train/NAME.tif  DATA/train_annot/NAME.tif   (or NAME_mask.tif; any image suffix)
DATA/val/ …          DATA/test/ …                 (test is optional)
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.cli import UserError
from shards.images import Pixels, RejectedImage, decode_image
from shards.sources import is_image_name

MAX_INDEX = 31  # larger values in an index mask are grey levels, not classes
REST = "rest"
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")

Mask = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MaskClass:
    """A class and the mask value that stands for it: an index, a colour, or whatever is left."""

    name: str
    value: int | tuple[int, int, int] | None  # None: every pixel that no other class claims


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A micrograph and its mask."""

    name: str
    pixels: Pixels  # (H, W, 3) uint8
    mask: Mask  # (H, W), class indices


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """All splits of a data folder that are there."""

    classes: tuple[str, ...]
    train: tuple[LabelledImage, ...]
    val: tuple[LabelledImage, ...]
    test: tuple[LabelledImage, ...]


def read_labelled_set(folder: Path, class_specs: Sequence[str]) -> LabelledSet:
    """Read a data folder. Raises `UserError` for missing pairs and meaningless mask values."""
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}; --data takes one with train/ and train_annot/")
    pairs = {split: _pair(folder, split) for split in ("train", "val", "test")}
    for split in ("train", "val"):
        if not pairs[split]:
            raise UserError(f"no images in {folder / split}; segmentation needs train/ and val/")
    masks = {mask: _read_mask(mask) for split in pairs.values() for _, mask in split}
    classes = parse_classes(class_specs) if class_specs else _infer_classes(masks)
    splits = {
        split: tuple(_labelled(image, mask, masks[mask], classes) for image, mask in pairs[split])
        for split in pairs
    }
    return LabelledSet(tuple(c.name for c in classes), **splits)


def parse_classes(specs: Sequence[str]) -> tuple[MaskClass, ...]:
    """Parse `NAME=INDEX`, `NAME=#rrggbb` and `NAME=rest`. Raises `UserError`."""
    classes = []
    for spec in specs:
        name, _, value = spec.partition("=")
        if value == REST:
            classes.append(MaskClass(name, None))
        elif value.isdecimal():
            classes.append(MaskClass(name, int(value)))
        elif _COLOUR.fullmatch(value):
            red, green, blue = bytes.fromhex(value[1:])
            classes.append(MaskClass(name, (red, green, blue)))
        else:
            raise UserError(f"class {spec!r} is none of NAME=INDEX, NAME=#rrggbb, NAME={REST}")
    names = [c.name for c in classes]
    if len(set(names)) < len(names) or len(classes) < 2 or "" in names:
        raise UserError("classes needs at least two different names, background included")
    if len({c.value for c in classes}) < len(classes):
        raise UserError(f"two classes stand for the same mask value in: {' '.join(specs)}")
    return tuple(classes)


def mask_to_indices(mask: npt.NDArray[np.generic], classes: Sequence[MaskClass], name: str) -> Mask:
    """Translate mask values `(H, W)` or colours `(H, W, 3)` to class indices.

    Raises `UserError` naming the values that no class stands for.
    """
    indices = np.full(mask.shape[:2], -1, np.int64)
    for index, entry in enumerate(classes):
        if isinstance(entry.value, tuple):
            if mask.ndim != 3:
                raise UserError(f"mask {name} holds indices, but class {entry.name} is a colour")
            indices[(mask == np.array(entry.value)).all(axis=2)] = index
        elif entry.value is not None:
            if mask.ndim == 3:
                raise UserError(f"mask {name} is coloured, but class {entry.name} is an index")
            indices[mask == entry.value] = index
    rest = [index for index, entry in enumerate(classes) if entry.value is None]
    if rest:
        indices[indices < 0] = rest[0]
    elif (indices < 0).any():
        raise UserError(
            f"mask {name} holds {_spell_values(mask[indices < 0])}, which no class stands for; "
            f"add them to --classes, or one class as NAME={REST}"
        )
    return indices


def _pair(folder: Path, split: str) -> list[tuple[Path, Path]]:
    images, masks = folder / split, folder / f"{split}_annot"
    if not images.is_dir():
        return []
    by_stem = {
        path.stem.removesuffix("_mask"): path
        for path in sorted(masks.iterdir() if masks.is_dir() else [])
        if is_image_name(path.name)
    }
    paths = sorted(path for path in images.iterdir() if is_image_name(path.name))
    for path in paths:
        if path.stem not in by_stem:
            raise UserError(
                f"{path} has no mask: wanted {masks / path.name} or {path.stem}_mask there"
            )
    return [(path, by_stem[path.stem]) for path in paths]


def _read_mask(path: Path) -> npt.NDArray[np.generic]:
    """A mask's values: `(H, W)` indices (a palette's too) or `(H, W, 3)` colours."""
    try:
        with Image.open(path) as image:
            if image.mode in ("RGB", "RGBA", "CMYK", "LA", "YCbCr"):
                return np.asarray(image.convert("RGB"))
            return np.asarray(image)
    except Exception as error:  # decoders raise anything
        raise UserError(f"cannot read mask {path}: {error}") from error


def _infer_classes(masks: dict[Path, npt.NDArray[np.generic]]) -> tuple[MaskClass, ...]:
    """Index masks speak for themselves when they hold 0, 1, 2 …; anything else is asked about."""
    values: set[int] = set()
    for path, mask in masks.items():
        if mask.ndim == 3:
            raise UserError(
                f"mask {path.name} is coloured, with {_spell_values(mask)}; say what they mean: "
                f"--classes NAME=#rrggbb … NAME={REST}"
            )
        values |= {int(value) for value in np.unique(mask)}
    found = sorted(values)
    if found != list(range(len(found))) or len(found) < 2 or len(found) > MAX_INDEX:
        proposal = " ".join(f"class{i}={value}" for i, value in enumerate(found[:4]))
        raise UserError(
            f"the masks hold the values {', '.join(map(str, found[:8]))}, not 0, 1, 2 …; "
            f"say what they mean, such as: --classes {proposal}"
        )
    return tuple(MaskClass(f"class{value}", value) for value in found)


def _labelled(
    image: Path, mask: Path, values: npt.NDArray[np.generic], classes: Sequence[MaskClass]
) -> LabelledImage:
    try:
        pixels = decode_image(image.read_bytes()).pixels
    except RejectedImage as reject:
        raise UserError(f"cannot read {image}: {reject.detail}") from reject
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape[:2] != values.shape[:2]:
        raise UserError(
            f"{image} is {pixels.shape[1]} x {pixels.shape[0]} pixels, its mask "
            f"{values.shape[1]} x {values.shape[0]}"
        )
    return LabelledImage(image.stem, pixels, mask_to_indices(values, classes, mask.name))


def _spell_values(values: npt.NDArray[np.generic]) -> str:
    """The most frequent values or colours, as the user would write them."""
    if values.ndim >= 2 and values.shape[-1] == 3:
        colours = Counter(map(tuple, values.reshape(-1, 3)[::7].tolist()))
        vivid = [c for c, _ in colours.most_common() if max(c) - min(c) > 64][:4]
        shown = vivid or [c for c, _ in colours.most_common(4)]
        return "colours " + ", ".join("#" + bytes(c).hex() for c in shown)
    return "values " + ", ".join(str(value) for value in np.unique(values)[:8])
