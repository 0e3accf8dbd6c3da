"""Find images and masks in a data folder, pair them and split them. Imports no torch.

DATA/train/NAME.tif    DATA/train_annot/NAME.tif   (the same for val/ and test/)
DATA/images/NAME.tif   DATA/masks/NAME.png         (split automatically)
DATA/NAME.tif          DATA/NAME_mask.png          (the same, in one folder)

A mask has the name of its image, or NAME_mask, NAME_label, NAME_seg …, with any image suffix.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from downstream.labels.specimens import specimen_of
from micrograph.cli import UserError
from shards.sources.listing import is_image_name

SPLITS = ("train", "val", "test")
MASK_SUFFIXES = ("_mask", "_masks", "_label", "_labels", "_annot", "_annotation", "_seg")
IMAGE_FOLDERS = ("images", "image", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "annot")
DEFAULT_FOLDS = 5  # of a folder without splits; fewer if it has fewer images


@dataclass(frozen=True, slots=True)
class Pair:
    """A micrograph and its mask."""

    image: Path
    mask: Path

    @property
    def name(self) -> str:
        return self.image.stem


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """The files of a split: pairs, and files without a partner."""

    pairs: tuple[Pair, ...] = ()
    unlabelled: tuple[Path, ...] = ()  # images without a mask
    orphans: tuple[Path, ...] = ()  # masks without an image


def find_splits(root: Path, entries: Mapping[str, Sequence[str]]) -> dict[str, SplitFiles]:
    """The files of each split; `entries` are folders or images under `root`.

    A root without splits has one split "all". Raises `UserError` for missing folders or images.
    """
    if not root.is_dir():
        raise UserError(f"no such folder: {root}; --data needs a folder of images and masks")
    if all((root / entry).exists() for entry in entries["train"]):
        return {split: _collect(root, split, entries[split]) for split in SPLITS}
    if tuple(entries["train"]) != ("train",):
        missing = [entry for entry in entries["train"] if not (root / entry).exists()]
        raise UserError(f"{root} has no {missing[0]!r}, listed in `train`; is it the right folder?")
    found = pair_folder(root)
    if not found.pairs:
        raise UserError(_nothing_found(root, found))
    return {"all": found}


def pair_folder(folder: Path) -> SplitFiles:
    """Pair the images of a folder with masks from its mask folder or, without one, beside them."""
    images, masks = _folders(folder)
    image_paths, mask_paths = _image_files(images), _image_files(masks)
    if images == masks:
        mask_paths = [path for path in mask_paths if _without_suffix(path.stem) != path.stem]
        image_paths = [path for path in image_paths if _without_suffix(path.stem) == path.stem]
    by_name = _by_name(mask_paths, {path.stem for path in image_paths})
    pairs = [Pair(path, by_name[path.stem]) for path in image_paths if path.stem in by_name]
    used = {pair.mask for pair in pairs}
    return SplitFiles(
        tuple(pairs),
        tuple(path for path in image_paths if path.stem not in by_name),
        tuple(path for path in mask_paths if path not in used),
    )


def hold_out(
    pairs: Sequence[Pair], folds: int | None, fold: int, specimen: str | None = None
) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """Split pairs into training and validation; fold `fold` of `folds` is for validation.

    Images of a specimen stay together if there are at least as many specimens as folds. The split
    depends on the names only, so that runs with different seeds are comparable. Raises `UserError`
    for fewer images than folds.
    """
    count = folds or min(DEFAULT_FOLDS, len(pairs))
    if len(pairs) < max(2, count):
        raise UserError(
            f"cannot split {len(pairs)} labelled images into {max(2, count)} folds; label "
            "another image, or cut one in two"
        )
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(specimen_of(pair.name, specimen) or pair.name, []).append(pair)
    if len(groups) < count:
        groups = {pair.name: [pair] for pair in pairs}
    names = sorted(groups)
    random.Random(0).shuffle(names)
    names.sort(key=lambda name: -len(groups[name]))  # large groups first, for folds of similar size
    parts: list[list[Pair]] = [[] for _ in range(count)]
    for name in names:
        min(parts, key=len).extend(groups[name])
    chosen = set(parts[fold])
    return (
        tuple(pair for pair in pairs if pair not in chosen),
        tuple(pair for pair in pairs if pair in chosen),
    )


def _collect(root: Path, split: str, entries: Sequence[str]) -> SplitFiles:
    pairs: list[Pair] = []
    unlabelled: list[Path] = []
    orphans: list[Path] = []
    for entry in entries:
        path = root / entry
        if path.is_dir():
            found = pair_folder(path)
            pairs += found.pairs
            unlabelled += found.unlabelled
            orphans += found.orphans
        elif path.is_file():
            named = [pair for pair in pair_folder(path.parent).pairs if pair.image == path]
            pairs += named
            unlabelled += [] if named else [path]
        elif (split, entry) not in (("val", "val"), ("test", "test")):  # may be missing
            raise UserError(f"{root} has no {entry!r}, listed in `{split}`")
    names = [pair.name for pair in pairs] + [path.stem for path in unlabelled]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{split} has two images named {duplicates[0]!r}; rename one")
    return SplitFiles(tuple(pairs), tuple(unlabelled), tuple(orphans))


def _folders(folder: Path) -> tuple[Path, Path]:
    """The folder of the images and that of the masks."""
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    if images is not None:
        masks = [folder / name for name in MASK_FOLDERS]
        return images, next((path for path in masks if path.is_dir()), images)
    beside = [folder.with_name(folder.name + suffix) for suffix in MASK_SUFFIXES]
    if folder.name in IMAGE_FOLDERS:
        beside += [folder.with_name(name) for name in MASK_FOLDERS]
    return folder, next((path for path in beside if path.is_dir()), folder)


def _image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_image_name(path.name))


def _by_name(masks: Sequence[Path], images: set[str]) -> dict[str, Path]:
    """Masks by the name of their image; an exact name has priority."""
    found: dict[str, Path] = {}
    for mask in masks:
        name = mask.stem if mask.stem in images else _without_suffix(mask.stem)
        if name in found:
            raise UserError(f"two masks for one image: {found[name]} and {mask}; remove one")
        found[name] = mask
    return found


def _without_suffix(stem: str) -> str:
    for suffix in MASK_SUFFIXES:
        for ending in (suffix, "-" + suffix[1:]):
            if stem.lower().endswith(ending) and len(stem) > len(ending):
                return stem[: -len(ending)]
    return stem


def _nothing_found(root: Path, found: SplitFiles) -> str:
    data_sets = sorted(path.name for path in root.iterdir() if (path / "train").is_dir())
    if data_sets:
        return f"{root} contains several data sets; choose one: {', '.join(data_sets)}"
    if found.unlabelled:
        return (
            f"{root} has {len(found.unlabelled)} images but no mask with a matching name; expected "
            f"train/ and train_annot/, images/ and masks/, or {found.unlabelled[0].stem}_mask"
        )
    return f"no images in {root}; expected train/ and train_annot/, or images/ and masks/"
