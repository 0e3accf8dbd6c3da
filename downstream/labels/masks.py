"""Read mask files and map their values to class indices. Imports no torch."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from downstream.labels.classes import REST, MaskClass, Rgb, format_value
from micrograph.cli import UserError
from shards.images.decode import Pixels

VIVID = 64  # difference between channels above which a colour is deliberate, not a tint
_LOSSY = ("JPEG", "MPO", "JPEG2000")
_SAME_PIXEL = 8  # maximal difference between a pixel of an overlay and of its image

Mask = npt.NDArray[np.int64]
Values = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class RawMask:
    """A mask as stored: `(H, W)` integers or `(H, W, 3)` uint8 colours.

    `palette` `(N, 3)` holds the colours of the indices of a palette image.
    """

    name: str
    values: Values
    palette: Pixels | None = None

    @property
    def is_colour(self) -> bool:
        return self.values.ndim == 3


def read_mask(path: Path) -> RawMask:
    """Read the first page of a mask. Raises `UserError` for lossy or unreadable files."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # Pillow warns about unusual metadata
            if image.format in _LOSSY:
                raise UserError(
                    f"mask {path} is a {image.format}, whose compression changes the values at "
                    "borders; save masks as PNG or TIFF, from the original annotation"
                )
            return _decode(path.name, image)
    except UserError:
        raise
    except Exception as error:  # decoders raise exceptions of many types
        raise UserError(f"cannot read mask {path}: {error}") from error


def mask_to_indices(
    mask: RawMask, classes: Sequence[MaskClass], image: Pixels | None = None
) -> Mask:
    """Map a mask to class indices `(H, W)` int64.

    `image` is the micrograph under an overlay: a vivid pixel that is equal in both belongs to the
    micrograph. Raises `UserError` for values without a class.
    """
    by_colour = any(isinstance(entry.value, tuple) for entry in classes)
    values = _as_colours(mask) if by_colour else _as_indices(mask)
    indices = np.full(values.shape[:2], -1, np.int64)
    for index, entry in enumerate(classes):
        if entry.value is not None:
            same = values == np.asarray(entry.value)
            indices[same.all(axis=2) if by_colour else same] = index
    unassigned = indices < 0
    rest = [index for index, entry in enumerate(classes) if entry.value is None]
    if rest:
        if by_colour:
            _check_rest(mask.name, values, unassigned, image)
        indices[unassigned] = rest[0]
    elif unassigned.any():
        raise UserError(
            f"mask {mask.name} contains {format_values(values[unassigned])} without a class; add "
            f"them to --classes, or add one class as NAME={REST}"
        )
    return indices


def is_vivid(colours: Pixels) -> npt.NDArray[np.bool_]:
    """Whether each colour `(…, 3)` is clearly not grey."""
    return np.asarray(np.ptp(colours.astype(np.int16), axis=-1) > VIVID)


def format_values(values: Values) -> str:
    """Format the first values `(N,)` or the most frequent colours `(N, 3)`."""
    if values.ndim == 2:
        counts = count_colours(values.astype(np.uint8))
        strong = [c for c, _ in counts.most_common() if max(c) - min(c) > VIVID]
        shown = (strong or [c for c, _ in counts.most_common()])[:4]
        return "colours " + ", ".join(format_value(c) for c in shown)
    return "values " + ", ".join(str(value) for value in np.unique(values)[:8])


def count_colours(colours: Pixels) -> Counter[Rgb]:
    """Count the colours of `(…, 3)` uint8."""
    flat = colours.reshape(-1, 3).astype(np.int64)
    packed, counts = np.unique(flat[:, 0] << 16 | flat[:, 1] << 8 | flat[:, 2], return_counts=True)
    return Counter(
        {
            (int(p) >> 16, int(p) >> 8 & 255, int(p) & 255): int(n)
            for p, n in zip(packed, counts, strict=True)
        }
    )


def _decode(name: str, image: Image.Image) -> RawMask:
    if image.mode == "P":
        palette = np.asarray(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        return RawMask(name, np.asarray(image), palette)
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La"):
        return RawMask(name, _over_black(name, image))
    if image.mode in ("RGB", "CMYK", "YCbCr", "LAB", "HSV"):
        return RawMask(name, np.asarray(image.convert("RGB")))
    values = np.asarray(image)
    if values.ndim != 2:
        raise UserError(f"mask {name} has the unsupported mode {image.mode}; save it as PNG")
    if values.dtype == np.bool_:
        return RawMask(name, values.astype(np.uint8))  # 1-bit: classes 0 and 1
    if np.issubdtype(values.dtype, np.floating):
        whole = np.rint(values)
        if not np.array_equal(whole, values):  # False for nan
            raise UserError(
                f"mask {name} contains fractional values up to {np.nanmax(values):g}: "
                "probabilities, or a smoothed mask? Save integers"
            )
        return RawMask(name, whole.astype(np.int64))
    return RawMask(name, values)


def _over_black(name: str, image: Image.Image) -> Pixels:
    """Colours of an image with alpha 0 or 255; transparent pixels become black."""
    rgba = np.asarray(image.convert("RGBA"))
    alpha = rgba[..., 3]
    partial = (alpha > 0) & (alpha < 255)
    if partial.any():
        raise UserError(
            f"mask {name} is half-transparent in {partial.mean():.1%} of its pixels (anti-aliased, "
            "or an overlay with opacity); export opaque labels without smoothing"
        )
    return np.where(alpha[..., None] == 0, 0, rgba[..., :3]).astype(np.uint8)


def _as_colours(mask: RawMask) -> Pixels:
    if mask.is_colour:
        return mask.values.astype(np.uint8)
    if mask.palette is not None and len(mask.palette) > int(mask.values.max(initial=0)):
        return np.asarray(mask.palette[mask.values.astype(np.int64)])
    raise UserError(f"mask {mask.name} contains indices, but the classes are colours")


def _as_indices(mask: RawMask) -> Values:
    if not mask.is_colour:
        return mask.values
    if (mask.values == mask.values[..., :1]).all():
        return mask.values[..., 0]  # grey, stored as RGB
    raise UserError(f"mask {mask.name} contains colours, but the classes are indices")


def _check_rest(
    name: str, colours: Values, unassigned: npt.NDArray[np.bool_], image: Pixels | None
) -> None:
    """Reject vivid colours in the rest: a forgotten class, or smoothed borders."""
    strange = unassigned & is_vivid(colours.astype(np.uint8))
    if image is not None and image.shape[:2] == unassigned.shape:
        pixels = image if image.ndim == 3 else image[..., None]
        far = np.abs(colours.astype(np.int16) - pixels) > _SAME_PIXEL
        strange &= far.any(axis=2)
    if strange.any():
        raise UserError(
            f"mask {name} contains {format_values(colours[strange])} in {strange.mean():.2%} of "
            f"its pixels, which would become {REST!r}: a colour without a class, or smoothed "
            "borders; add it to --classes, or export the mask without smoothing"
        )
