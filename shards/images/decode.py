"""Decode any image file to an 8-bit grey or RGB array, or reject it.

The policy by kind of input (recorded in each sample's notes where it changed something):

    16-bit, 32-bit, float   windowed to 8 bits between the 0.1 and 99.9 percentiles, recorded
    palette, 1-bit, CMYK    converted to RGB (grey where the result is grey)
    alpha                   dropped when opaque, else blended over black
    EXIF rotation           applied
    multi-page              the first page
    16-bit colour           rejected: Pillow would silently drop the low byte
    RGB with equal channels grey
"""

import io
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag, auto
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from shards.shard_format.config import Profile

SUFFIXES: dict[Profile, str] = {"fast": "jpg", "exact": "png"}  # of stored images

# Pillow's names, not all of them: an EPS file named .png would start Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MIN_SIDE = 32  # pixels; the deepest stride of the encoders
MAX_PIXELS = (
    400_000_000  # a 20,000 x 20,000 scan; above it a small file may be a decompression bomb
)
WINDOW_PERCENTILES = (0.1, 99.9)  # ignores hot pixels without clipping precipitates
# The channels of a scanned grey image differ by JPEG rounding; real colour differs by far more. A
# few pixels of a grey image may still be coloured: annotations, and the chroma that JPEG spreads
# from a coloured data bar into the next row.
GREY_TOLERANCE = 4
MAX_COLOURED_SHARE = 1e-3

JPEG_QUALITY = 95
_JPEG_END = b"\xff\xd9"

Image.MAX_IMAGE_PIXELS = None  # `MAX_PIXELS` is checked before any pixel is decoded

Pixels = npt.NDArray[np.uint8]


class Decision(IntFlag):
    """What was done to an image, or found in it; counted in the manifest under these names."""

    FIRST_PAGE_TAKEN = auto()
    EXIF_ROTATED = auto()
    MODE_CONVERTED = auto()
    DEPTH_WINDOWED = auto()
    COLOUR_CHANNELS_EQUAL = auto()
    COLOUR_MADE_GREY = auto()
    DATA_BAR_CROPPED = auto()
    ANNOTATIONS_FOUND = auto()
    TRULY_COLOURED = auto()


Notes = Mapping[Decision, str]  # in the order in which they were taken, with the details


class RejectedImage(Exception):
    """An image that must not enter a shard; `reason` is one word, for counting."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Micrograph:
    """A decoded image: `(H, W)` grey or `(H, W, 3)` RGB, uint8, and what was done to get it."""

    pixels: Pixels
    notes: Notes

    @property
    def channels(self) -> int:
        return 1 if self.pixels.ndim == 2 else 3


@dataclass(frozen=True, slots=True)
class RawImage:
    """As decoded, upright: `(H, W)` of the file's depth, or `(H, W, 3)` uint8 RGB."""

    values: npt.NDArray[Any]
    notes: Notes


def decode_image(data: bytes, *, grey: bool = False, max_pixels: int = MAX_PIXELS) -> Micrograph:
    """Decode a whole image file by the policy above. Raises `RejectedImage`, nothing else."""
    raw = decode_raw(data, max_pixels=max_pixels)
    micrograph = to_eight_bits(raw.values, grey=grey)
    return Micrograph(micrograph.pixels, {**raw.notes, **micrograph.notes})


def decode_raw(data: bytes, *, max_pixels: int = MAX_PIXELS) -> RawImage:
    """Decode at the file's own depth. Raises `RejectedImage`, nothing else."""
    if not data:
        raise RejectedImage("empty", "the file has no bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the pixels decide
            return _decode(_open(data, max_pixels), data)
    except (RejectedImage, MemoryError):
        raise
    except Exception as error:  # decoders raise anything, struct.error and SyntaxError included
        raise RejectedImage("corrupt", f"{type(error).__name__}: {error}") from error


def to_eight_bits(values: npt.NDArray[Any], *, grey: bool = False) -> Micrograph:
    """Window high depths, fold equal channels (any channels with `grey`) into one.

    Raises `RejectedImage` when nothing but one value is left, or values are not finite.
    """
    notes: dict[Decision, str] = {}
    if values.dtype != np.uint8:
        values, notes[Decision.DEPTH_WINDOWED] = window(values)
    if values.ndim == 3 and is_grey(values):
        values = np.ascontiguousarray(values[..., 1])
        notes[Decision.COLOUR_CHANNELS_EQUAL] = "equal channels to grey"
    elif values.ndim == 3 and grey:
        values = np.asarray(Image.fromarray(values).convert("L"))
        notes[Decision.COLOUR_MADE_GREY] = "colour to grey"
    if values.min() == values.max():
        raise RejectedImage("blank", f"every pixel is {values.flat[0]}")
    return Micrograph(values, notes)


def is_grey(pixels: Pixels) -> bool:
    """Whether the channels of `(H, W, 3)` differ by no more than rounding, in every eighth row."""
    red, green, blue = (np.ascontiguousarray(pixels[::8, :, channel]) for channel in range(3))
    spread = np.maximum(_apart(red, green), _apart(blue, green))
    return bool(np.count_nonzero(spread > GREY_TOLERANCE) <= MAX_COLOURED_SHARE * spread.size)


def shrink(pixels: Pixels, max_side: int | None) -> Pixels:
    """Scale an image down, antialiased, so that its longest side is at most `max_side`."""
    height, width = pixels.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return pixels
    factor = max_side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    # Hamming: sharp as bicubic, no overshoot that looks like charging, a third of Lanczos' time.
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.HAMMING))


def encode_image(pixels: Pixels, profile: Profile) -> bytes:
    """Encode for the shard: JPEG for `fast`, lossless PNG for `exact`."""
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    if profile == "fast":
        image.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
        return stream.getvalue()
    # Run lengths and Huffman codes alone: noise has no repeats to find. On 102 real micrographs
    # 6 times as fast as Pillow's default, and 3 % smaller.
    image.save(stream, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return stream.getvalue()


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        kind = "text or another format" if _looks_like_text(data) else "unknown or damaged format"
        raise RejectedImage("not_an_image", kind) from error
    width, height = image.size
    if width * height > max_pixels:
        raise RejectedImage("too_large", f"{width} x {height} pixels, at most {max_pixels}")
    if min(width, height) < MIN_SIDE:
        raise RejectedImage("too_small", f"{width} x {height} pixels, sides of at least {MIN_SIDE}")
    return image


def _decode(image: Image.Image, data: bytes) -> RawImage:
    notes: dict[Decision, str] = {}
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        notes[Decision.FIRST_PAGE_TAKEN] = f"page 1 of {pages}"
    if _is_deep_colour(image):
        raise RejectedImage("deep_colour", "16 bits per colour; save it as 16-bit grey or 8 bits")
    if image.getexif().get(ExifTags.Base.Orientation) in range(2, 9):  # 1: no rotation
        image = ImageOps.exif_transpose(image)
        notes[Decision.EXIF_ROTATED] = "EXIF rotation applied"
    if not _is_deep_grey(image) and (image.mode not in ("L", "RGB") or image.has_transparency_data):
        key = " with a transparent colour" if "transparency" in image.info else ""
        notes[Decision.MODE_CONVERTED] = f"from mode {image.mode}{key}"
        image = _over_black(image)
    return RawImage(_pixels(image, data), notes)


def _pixels(image: Image.Image, data: bytes) -> npt.NDArray[Any]:
    """Decode an opened image: plain JPEG by simplejpeg, to the same pixels in half the time.

    A missing end marker is accepted, missing rows are not (Pillow would fill them). Pillow decides
    about other oddities, such as bytes between markers.
    """
    if image.format == "JPEG" and image.mode in ("L", "RGB") and _is_untouched(image):
        try:
            pixels = simplejpeg.decode_jpeg(
                data if data.endswith(_JPEG_END) else data + _JPEG_END,
                "GRAY" if image.mode == "L" else "RGB",
            )
            return np.asarray(pixels[..., 0] if image.mode == "L" else pixels)
        except ValueError as error:
            if "premature end" in str(error).lower():
                raise RejectedImage("corrupt", "the file ends before the image does") from error
    return np.asarray(image)


def _is_untouched(image: Image.Image) -> bool:
    """Whether it has not been rotated or converted since `Image.open`."""
    return bool(getattr(image, "tile", ()))


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether Pillow would drop bits: only its grey modes have more than 8."""
    return not _is_deep_grey(image) and _bits(image) > 8


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _bits(image: Image.Image) -> int:
    """Bits per channel in the file, for formats that can have more than 8."""
    source: Any = image  # its attributes depend on the format's plugin
    if image.format == "TIFF":
        return int(max(source.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))))
    if image.format == "JPEG2000":
        data = source.fp.getvalue()
        size = data.index(b"\xff\x4f\xff\x51") + 2  # the SIZ segment of the code stream
        channels = int.from_bytes(data[size + 38 : size + 40], "big")
        depths = data[size + 40 : size + 40 + 3 * channels : 3]
        return int(1 + max(depth & 0x7F for depth in depths))
    layouts = [tile.args if isinstance(tile.args, tuple) else (tile.args,) for tile in source.tile]
    if image.format == "PPM":
        most = max((layout[1] for layout in layouts if len(layout) > 1), default=255)
        return int(most).bit_length()
    return 16 if any("16" in str(layout[0]) for layout in layouts) else 8


def _over_black(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba.convert("RGB")
    black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, rgba).convert("RGB")


def _apart(one: Pixels, other: Pixels) -> Pixels:
    return np.maximum(one, other) - np.minimum(one, other)


def window(
    values: npt.NDArray[np.generic], percentiles: tuple[float, float] = WINDOW_PERCENTILES
) -> tuple[Pixels, str]:
    """Map high-depth values to 8 bits between two percentiles; returns a note of these as well.

    Raises `RejectedImage` where all are equal, or one is not finite.
    """
    if not np.isfinite(values).all():  # before the cast: a signalling NaN would warn
        raise RejectedImage("corrupt", "has values that are not finite")
    finite = np.asarray(values, np.float64)
    low, high = np.percentile(finite, percentiles)
    if high <= low:
        low, high = finite.min(), finite.max()
    if high <= low:
        raise RejectedImage("blank", f"every pixel is {low:g}")
    scaled = np.clip((finite - low) / (high - low), 0, 1) * 255
    return np.rint(scaled).astype(np.uint8), f"windowed {low:g}..{high:g} of {values.dtype}"


def _looks_like_text(data: bytes) -> bool:
    try:
        return data[:256].decode("utf-8").isprintable() or b"\n" in data[:256]
    except UnicodeDecodeError:
        return False
