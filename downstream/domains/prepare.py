"""Prepare the images of a domain study: one pixel size, one polarity, half scale. No torch.

Paper B, section 2.2: crop the data bar, invert light-optical images, rescale to the pixel size of
the source and crop to its field of view, then halve. Tiles are cut later (`tile_plan`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from downstream.domains.study import Domain, DomainStudy
from downstream.images.scaling import scaling_method, working_shape
from downstream.labels.dataset import read_labelled_image, read_pixels, require_classes
from downstream.labels.layout import Pair, SplitFiles, find_splits, hold_out
from downstream.labels.masks import read_mask
from micrograph.cli import UserError, warn
from shards.images.databar import find_data_bar
from shards.images.decode import Pixels

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A micrograph at the working scale; predictions are scored at `native_shape`."""

    name: str
    pixels: Pixels  # (h, w, 3) at the working scale, not padded
    mask: Labels | None  # (h, w), indices into `study.classes`
    native_mask: Labels | None  # (H, W), as annotated
    native_shape: tuple[int, int]  # H, W of the file after cropping


@dataclass(frozen=True, slots=True)
class TargetImages:
    """The images of a target domain."""

    train: tuple[PreparedImage, ...]  # without masks unless requested
    test: tuple[PreparedImage, ...]  # with masks if there are any, for scoring only


def prepare_source(
    study: DomainStudy, folds: int | None = None, fold: int = 0
) -> tuple[tuple[PreparedImage, ...], tuple[PreparedImage, ...]]:
    """The labelled training and validation images; `fold` of `folds` is for validation.

    Specimens are not split. `folds` defaults to that of the domain study; with 1, the source's
    `train` and `val` are used as given. Raises `UserError` for missing pairs and unclear masks.
    """
    folds = study.folds if folds is None else folds
    if folds < 1 or not 0 <= fold < folds:
        raise UserError(f"there is no fold {fold} of {folds}; folds are numbered from 0")
    train, val = _source_pairs(study, folds, fold)
    images = [_prepare_pair(study, study.source, pair) for pair in (*train, *val)]
    masks = [image.mask for image in images if image.mask is not None]
    require_classes(study.class_names, masks, study.source.name)
    return tuple(images[: len(train)]), tuple(images[len(train) :])


def prepare_target(study: DomainStudy, name: str, *, with_labels: bool = False) -> TargetImages:
    """The images of a target. Masks of `train` are read only if `with_labels` is set.

    Raises `UserError` for an unknown target, and if images or requested labels are missing.
    """
    domain = study.target(name)
    if with_labels and not domain.labelled:
        raise UserError(
            f"target {name} has no training labels; if its `train` folder has masks, set "
            "`labelled: true` in the domain study"
        )
    found = find_target(study, name)
    if with_labels:
        _check_labelled(found["train"])
        train = [_prepare_pair(study, domain, pair) for pair in found["train"].pairs]
    else:
        train = [_prepare_image(study, domain, path) for path in _images(found["train"])]
    test = [_prepare_pair(study, domain, pair) for pair in found["test"].pairs]
    test += [_prepare_image(study, domain, path) for path in found["test"].unlabelled]
    return TargetImages(tuple(train), tuple(sorted(test, key=lambda image: image.name)))


def find_target(study: DomainStudy, name: str) -> dict[str, SplitFiles]:
    """The files of a target by split, without opening them.

    Raises `UserError` for an unknown target, and for one without images.
    """
    domain = study.target(name)
    absent = [entry for entry in domain.train if not (domain.data / entry).exists()]
    if absent and domain.data.is_dir():
        raise UserError(
            f"{domain.data} has no {absent[0]!r}; list the images for training (without labels) "
            f"and scoring in `train` and `test` of target {name}; [.] is the folder itself"
        )
    found = _find(domain)
    if not _images(found["train"]):
        raise UserError(
            f"target {name} has no images in {', '.join(domain.train)} of {domain.data}"
        )
    return found


def prepare_pixels(
    study: DomainStudy, domain: Domain, name: str, pixels: Pixels, mask: Labels | None = None
) -> PreparedImage:
    """An image `(H, W, 3)` of `domain` at the working scale; `mask` contains class indices."""
    view = _view(domain, name, pixels)
    pixels, mask = pixels[view], None if mask is None else mask[view]
    height, width = pixels.shape[:2]
    shape = working_shape(height, width, study.working_scale(domain))
    working = _resized(pixels, shape)
    return PreparedImage(
        name=name,
        pixels=255 - working if domain.invert else working,
        mask=None if mask is None else _sampled(mask, shape),
        native_mask=mask,
        native_shape=(height, width),
    )


def _source_pairs(
    study: DomainStudy, folds: int, fold: int
) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    found = _find(study.source)
    if "all" in found:
        pairs = found["all"].pairs
    elif folds == 1:
        if not found["val"].pairs:
            raise UserError(f"the source of {study.name} has no val; use at least 2 folds")
        _check_labelled(found["train"], found["val"])
        return found["train"].pairs, found["val"].pairs
    else:
        _check_labelled(found["train"], found["val"])
        pairs = found["train"].pairs + found["val"].pairs
    return hold_out(pairs, folds, fold, study.specimen)


def _find(domain: Domain) -> dict[str, SplitFiles]:
    found = find_splits(domain.data, domain.entries)
    for split, part in found.items():
        if part.orphans:
            names = ", ".join(path.name for path in part.orphans[:3])
            warn(f"{domain.name}, {split}: masks without an image are not used: {names}")
    return found


def _check_labelled(*parts: SplitFiles) -> None:
    for part in parts:
        if part.unlabelled:
            path = part.unlabelled[0]
            raise UserError(f"{path} has no mask, but supervised training needs one")


def _images(found: SplitFiles) -> list[Path]:
    paths = [*(pair.image for pair in found.pairs), *found.unlabelled]
    return sorted(paths, key=lambda path: path.name)


def _prepare_pair(study: DomainStudy, domain: Domain, pair: Pair) -> PreparedImage:
    item = read_labelled_image(pair, read_mask(pair.mask), study.mask_classes)
    names = study.class_names
    merged = np.array([names.index(entry.name) for entry in study.mask_classes], np.uint8)
    return prepare_pixels(study, domain, item.name, item.pixels, merged[item.mask])


def _prepare_image(study: DomainStudy, domain: Domain, path: Path) -> PreparedImage:
    return prepare_pixels(study, domain, path.stem, read_pixels(path))


def _view(domain: Domain, name: str, pixels: Pixels) -> tuple[slice, slice]:
    """The part of an image that is used: its field of view, without the data bar."""
    rows, columns = slice(0, pixels.shape[0]), slice(0, pixels.shape[1])
    if domain.crop_bar and (bar := find_data_bar(pixels)) is not None:
        rows = slice(0, bar.row) if bar.edge == "bottom" else slice(bar.row, pixels.shape[0])
    if domain.field_of_view_um is not None and domain.pixel_size_nm is not None:
        width, height = (
            round(side * 1000 / domain.pixel_size_nm) for side in domain.field_of_view_um
        )
        rows, columns = _central(name, rows, height), _central(name, columns, width)
    return rows, columns


def _central(name: str, span: slice, length: int) -> slice:
    available = span.stop - span.start
    if length > available + 1:  # one pixel may be lost to rounding
        warn(f"{name} has {available} pixels but the field of view has {length}; all are used")
    start = span.start + max(0, available - length) // 2
    return slice(start, min(span.stop, start + length))


def _resized(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    if pixels.shape[:2] == shape:
        return np.ascontiguousarray(pixels)
    method = scaling_method(pixels.shape[:2], shape)
    return np.array(Image.fromarray(pixels).resize(shape[::-1], method))


def _sampled(mask: Labels, shape: tuple[int, int]) -> Labels:
    return np.array(Image.fromarray(mask).resize(shape[::-1], Image.Resampling.NEAREST))
