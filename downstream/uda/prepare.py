"""From files to the images of a study: one pixel size, one polarity, half scale. Imports no torch.

Paper B, section 2.2: data bar cut, light-optical images inverted, rescaled to the source's pixel
size and cropped to its field of view, then halved. Tiles are cut later (`tile_plan`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from downstream.seg.dataset import labelled, read_pixels
from downstream.seg.layout import Found, Pair, find_splits, hold_out
from downstream.seg.masks import read_mask
from downstream.uda.domains import Domain, DomainStudy
from shards.cli import UserError, warn
from shards.databar import find_data_bar
from shards.images import Pixels

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A micrograph at the working scale; predictions are scored at `native_shape`."""

    name: str
    pixels: Pixels  # (h, w, 3) at the working scale, not padded
    mask: Labels | None  # (h, w), positions in `study.classes`
    native_mask: Labels | None  # (H, W), as annotated
    native_shape: tuple[int, int]  # H, W of the file after bar and field of view were cut


@dataclass(frozen=True, slots=True)
class TargetImages:
    """What there is of a target domain."""

    train: tuple[PreparedImage, ...]  # without masks, unless they were asked for
    test: tuple[PreparedImage, ...]  # with masks where there are any: for scoring alone


def prepare_source(
    study: DomainStudy, folds: int | None = None, fold: int = 0
) -> tuple[tuple[PreparedImage, ...], tuple[PreparedImage, ...]]:
    """The labelled images to train on and to validate on; `fold` of `folds` validates.

    Specimens are kept whole. `folds` is the study's by default; with 1 the source's own `train` and
    `val` stay as they are. Raises `UserError` for missing pairs and meaningless masks.
    """
    folds = study.folds if folds is None else folds
    if folds < 1 or not 0 <= fold < folds:
        raise UserError(f"there is no fold {fold} of {folds}; folds count from 0")
    train, val = _source_pairs(study, folds, fold)
    images = [_prepare_pair(study, study.source, pair) for pair in (*train, *val)]
    _check_presence(study, study.source, images)
    return tuple(images[: len(train)]), tuple(images[len(train) :])


def prepare_target(study: DomainStudy, name: str, *, with_labels: bool = False) -> TargetImages:
    """The images of a target. No mask of `train` is opened unless `with_labels` asks for them.

    Raises `UserError` for an unknown target, one without images, or labels that it does not have.
    """
    domain = study.target(name)
    if with_labels and not domain.labelled:
        raise UserError(
            f"target {name} has no labels to train on; where its `train` folder has masks, say "
            "`labelled: true` in the study"
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


def find_target(study: DomainStudy, name: str) -> dict[str, Found]:
    """The files of a target by split; none is opened.

    Raises `UserError` for an unknown target, and for one without images.
    """
    domain = study.target(name)
    absent = [entry for entry in domain.train if not (domain.data / entry).exists()]
    if absent and domain.data.is_dir():
        raise UserError(
            f"{domain.data} has no {absent[0]!r}; say which of its images are trained on (without "
            f"their labels) and scored: `train` and `test` of target {name}, [.] for the folder"
        )
    found = _find(domain)
    if not _images(found["train"]):
        raise UserError(f"target {name} has no image in {', '.join(domain.train)} of {domain.data}")
    return found


def prepare_pixels(
    study: DomainStudy, domain: Domain, name: str, pixels: Pixels, mask: Labels | None = None
) -> PreparedImage:
    """An image `(H, W, 3)` of `domain` at the working scale; `mask` holds positions in classes."""
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


def working_shape(height: int, width: int, scale: float) -> tuple[int, int]:
    """Size after scaling, halves rounded up: 1,433 rows become 717."""
    return _scaled(height, scale), _scaled(width, scale)


def scaling_method(source: tuple[int, ...], target: tuple[int, ...]) -> Image.Resampling:
    """Down as `shards.images` scales, up without the steps that its filter would leave."""
    grows = target[0] > source[0]
    return Image.Resampling.BICUBIC if grows else Image.Resampling.HAMMING


def _scaled(length: int, scale: float) -> int:
    return max(1, math.floor(length * scale + 0.5))


def _source_pairs(
    study: DomainStudy, folds: int, fold: int
) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    found = _find(study.source)
    if "all" in found:
        pairs = found["all"].pairs
    elif folds == 1:
        if not found["val"].pairs:
            raise UserError(f"{study.name} names no val of its source; take folds of 2 or more")
        _check_labelled(found["train"], found["val"])
        return found["train"].pairs, found["val"].pairs
    else:
        _check_labelled(found["train"], found["val"])
        pairs = found["train"].pairs + found["val"].pairs
    return hold_out(pairs, folds, fold, study.specimen)


def _find(domain: Domain) -> dict[str, Found]:
    found = find_splits(domain.data, domain.entries)
    for split, part in found.items():
        if part.orphans:
            names = ", ".join(path.name for path in part.orphans[:3])
            warn(f"{domain.name}, {split}: masks without an image are not used: {names}")
    return found


def _check_labelled(*parts: Found) -> None:
    for part in parts:
        if part.unlabelled:
            path = part.unlabelled[0]
            raise UserError(f"{path} has no mask, and only labelled images can be learnt from")


def _images(found: Found) -> list[Path]:
    paths = [*(pair.image for pair in found.pairs), *found.unlabelled]
    return sorted(paths, key=lambda path: path.name)


def _prepare_pair(study: DomainStudy, domain: Domain, pair: Pair) -> PreparedImage:
    item = labelled(pair, read_mask(pair.mask), study.mask_classes)
    names = study.class_names
    merged = np.array([names.index(entry.name) for entry in study.mask_classes], np.uint8)
    return prepare_pixels(study, domain, item.name, item.pixels, merged[item.mask])


def _prepare_image(study: DomainStudy, domain: Domain, path: Path) -> PreparedImage:
    return prepare_pixels(study, domain, path.stem, read_pixels(path))


def _view(domain: Domain, name: str, pixels: Pixels) -> tuple[slice, slice]:
    """The part of a file that is used: without data bar, of the domain's field of view."""
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
    if length > available + 1:  # a pixel is lost to rounding
        warn(f"{name} has {available} pixels where the field of view asks for {length}; all used")
    start = span.start + max(0, available - length) // 2
    return slice(start, min(span.stop, start + length))


def _resized(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    if pixels.shape[:2] == shape:
        return np.ascontiguousarray(pixels)
    method = scaling_method(pixels.shape[:2], shape)
    return np.array(Image.fromarray(pixels).resize(shape[::-1], method))


def _sampled(mask: Labels, shape: tuple[int, int]) -> Labels:
    return np.array(Image.fromarray(mask).resize(shape[::-1], Image.Resampling.NEAREST))


def _check_presence(study: DomainStudy, domain: Domain, images: Sequence[PreparedImage]) -> None:
    present = _present(image.mask for image in images if image.mask is not None)
    absent = [name for index, name in enumerate(study.class_names) if index not in present]
    if absent:
        raise UserError(
            f"no mask of {domain.name} holds {', '.join(absent)}; is its value right? (python -m "
            "downstream.check says what the masks hold)"
        )


def _present(masks: Iterable[Labels]) -> set[int]:
    return {int(index) for mask in masks for index in np.unique(mask)}
