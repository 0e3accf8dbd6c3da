"""A mask file becomes class indices, or is refused with what was found in it. Imports no torch."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from downstream.seg.classes import REST, MaskClass, Rgb, spell_value
from shards.cli import UserError
from shards.images import Pixels

VIVID = 64  # grey values between channels: a colour that somebody chose, not a tint
_LOSSY = ("JPEG", "MPO", "JPEG2000")
_SAME_PIXEL = 8  # grey values between an overlay and its image: one colour, twice encoded

Mask = npt.NDArray[np.int64]
Values = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class RawMask:
    """A mask as the file has it: `(H, W)` whole numbers or `(H, W, 3)` uint8 colours.

    `palette` `(N, 3)` holds the colours of a palette file's indices.
    """

    name: str
    values: Values
    palette: Pixels | None = None

    @property
    def is_colour(self) -> bool:
        return self.values.ndim == 3


def read_mask(path: Path) -> RawMask:
    """Read the first page of a mask. Raises `UserError` for one that cannot hold exact values."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the values decide
            if image.format in _LOSSY:
                raise UserError(
                    f"mask {path} is a {image.format}: its compression mixes the values at every "
                    "border; save masks as PNG or TIFF, from the original annotation"
                )
            return _decode(path.name, image)
    except UserError:
        raise
    except Exception as error:  # decoders raise anything
        raise UserError(f"cannot read mask {path}: {error}") from error


def mask_to_indices(
    mask: RawMask, classes: Sequence[MaskClass], image: Pixels | None = None
) -> Mask:
    """Translate a mask to class indices `(H, W)` int64.

    `image` is the micrograph under an overlay: where both agree, a vivid pixel is the micrograph's
    own. Raises `UserError` naming the values that no class stands for.
    """
    by_colour = any(isinstance(entry.value, tuple) for entry in classes)
    values = _as_colours(mask) if by_colour else _as_indices(mask)
    indices = np.full(values.shape[:2], -1, np.int64)
    for index, entry in enumerate(classes):
        if entry.value is not None:
            same = values == np.asarray(entry.value)
            indices[same.all(axis=2) if by_colour else same] = index
    left = indices < 0
    rest = [index for index, entry in enumerate(classes) if entry.value is None]
    if rest:
        if by_colour:
            _check_rest(mask.name, values, left, image)
        indices[left] = rest[0]
    elif left.any():
        raise UserError(
            f"mask {mask.name} holds {spell_values(values[left])}, which no class stands for; "
            f"add them to --classes, or one class as NAME={REST}"
        )
    return indices


def vivid(colours: Pixels) -> npt.NDArray[np.bool_]:
    """Whether each colour `(…, 3)` is far from grey."""
    return np.asarray(np.ptp(colours.astype(np.int16), axis=-1) > VIVID)


def spell_values(values: Values) -> str:
    """The most frequent of values `(N,)` or colours `(N, 3)`, as the user would write them."""
    if values.ndim == 2:
        counts = count_colours(values.astype(np.uint8))
        strong = [c for c, _ in counts.most_common() if max(c) - min(c) > VIVID]
        shown = (strong or [c for c, _ in counts.most_common()])[:4]
        return "colours " + ", ".join(spell_value(c) for c in shown)
    return "values " + ", ".join(str(value) for value in np.unique(values)[:8])


def count_colours(colours: Pixels) -> Counter[Rgb]:
    """How often each colour occurs in `(…, 3)` uint8."""
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
        raise UserError(f"mask {name} has mode {image.mode}; save it as PNG")
    if values.dtype == np.bool_:
        return RawMask(name, values.astype(np.uint8))  # 1-bit: unset and set, classes 0 and 1
    if np.issubdtype(values.dtype, np.floating):
        whole = np.rint(values)
        if not np.array_equal(whole, values):  # nan differs from itself
            raise UserError(
                f"mask {name} holds fractions, up to {np.nanmax(values):g}: probabilities or a "
                "smoothed mask? Save whole numbers"
            )
        return RawMask(name, whole.astype(np.int64))
    return RawMask(name, values)


def _over_black(name: str, image: Image.Image) -> Pixels:
    """Colours with alpha 0 or 255: what is transparent becomes black."""
    rgba = np.asarray(image.convert("RGBA"))
    alpha = rgba[..., 3]
    partial = (alpha > 0) & (alpha < 255)
    if partial.any():
        raise UserError(
            f"mask {name} is half transparent in {partial.mean():.1%} of its pixels (anti-aliased, "
            "or an overlay with opacity); export the labels opaque, without smoothing"
        )
    return np.where(alpha[..., None] == 0, 0, rgba[..., :3]).astype(np.uint8)


def _as_colours(mask: RawMask) -> Pixels:
    if mask.is_colour:
        return mask.values.astype(np.uint8)
    if mask.palette is not None and len(mask.palette) > int(mask.values.max(initial=0)):
        return np.asarray(mask.palette[mask.values.astype(np.int64)])
    raise UserError(f"mask {mask.name} holds indices, but the classes are colours")


def _as_indices(mask: RawMask) -> Values:
    if not mask.is_colour:
        return mask.values
    if (mask.values == mask.values[..., :1]).all():
        return mask.values[..., 0]  # grey in three channels
    raise UserError(f"mask {mask.name} is coloured, but the classes are indices")


def _check_rest(
    name: str, colours: Values, left: npt.NDArray[np.bool_], image: Pixels | None
) -> None:
    """Refuse vivid colours in the rest: a forgotten class, or borders that were smoothed."""
    strange = left & vivid(colours.astype(np.uint8))
    if image is not None and image.shape[:2] == left.shape:
        pixels = image if image.ndim == 3 else image[..., None]
        far = np.abs(colours.astype(np.int16) - pixels) > _SAME_PIXEL
        strange &= far.any(axis=2)
    if strange.any():
        raise UserError(
            f"mask {name} holds {spell_values(colours[strange])} in {strange.mean():.2%} of its "
            f"pixels, which would fall into {REST!r}: a colour without a class, or smoothed "
            "borders; name it in --classes, or export the mask without smoothing"
        )
