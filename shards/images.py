"""The bit-depth and format policy: any image file becomes an 8-bit grey or RGB array, or a reject.

Policy, per kind of input (recorded in each sample's notes when it changed something):

    16-bit, 32-bit, float   windowed to 8 bits between the 0.1 and 99.9 percentiles, recorded
    palette, 1-bit, CMYK    converted to RGB (grey where the result is grey)
    alpha                   dropped when opaque, else blended over black
    EXIF rotation           applied
    multi-page              the first page
    RGB with equal channels grey
"""

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

Profile = Literal["fast", "exact"]

# Pillow's names. Not all that it has: an EPS named .png would start Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MIN_SIDE = 32  # pixels; the deepest stride of the encoders
MAX_PIXELS = (
    400_000_000  # a 20,000 x 20,000 scan; above it a small file may be a decompression bomb
)
WINDOW_PERCENTILES = (0.1, 99.9)  # ignores hot pixels without clipping precipitates
# Channels of a scanned grey image differ by JPEG rounding; measured colour differs by far more.
GREY_TOLERANCE = 4

JPEG_QUALITY = 95

Image.MAX_IMAGE_PIXELS = None  # `MAX_PIXELS` is checked before any pixel is decoded

Pixels = npt.NDArray[np.uint8]


class RejectedImage(Exception):
    """An image that must not enter a shard; `reason` is one word for counting."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Micrograph:
    """A decoded image: `(H, W)` grey or `(H, W, 3)` RGB, uint8, and what was done to get it."""

    pixels: Pixels
    notes: tuple[str, ...]

    @property
    def channels(self) -> int:
        return 1 if self.pixels.ndim == 2 else 3


def decode_image(data: bytes, *, grey: bool = False, max_pixels: int = MAX_PIXELS) -> Micrograph:
    """Decode a whole image file by the policy above. Raises `RejectedImage`, nothing else."""
    if not data:
        raise RejectedImage("empty", "the file has no bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the pixels decide
            image = _open(data, max_pixels)
            pixels, notes = _to_eight_bits(image)
    except RejectedImage:
        raise
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything, struct.error and SyntaxError included
        raise RejectedImage("corrupt", f"{type(error).__name__}: {error}") from error
    if grey and pixels.ndim == 3:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))
        notes = (*notes, "colour to grey")
    if pixels.min() == pixels.max():
        raise RejectedImage("blank", f"every pixel is {pixels.flat[0]}")
    return Micrograph(pixels, notes)


def shrink(pixels: Pixels, max_side: int | None) -> Pixels:
    """Scale an image down, antialiased, so that its longest side is at most `max_side`."""
    height, width = pixels.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return pixels
    factor = max_side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def encode_image(pixels: Pixels, profile: Profile) -> tuple[bytes, str]:
    """Encode for the shard: JPEG for `fast`, lossless PNG for `exact`. Returns bytes and suffix."""
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    if profile == "fast":
        image.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
        return stream.getvalue(), "jpg"
    image.save(stream, "PNG", compress_level=6)
    return stream.getvalue(), "png"


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


def _to_eight_bits(image: Image.Image) -> tuple[Pixels, tuple[str, ...]]:
    notes = []
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        notes.append(f"page 1 of {pages}")
    if image.getexif().get(ExifTags.Base.Orientation) in range(2, 9):  # 1: as it lies
        image = ImageOps.exif_transpose(image)
        notes.append("EXIF rotation applied")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        pixels, note = _window(np.asarray(image))
        return pixels, (*notes, note)
    if image.mode != "L" or image.has_transparency_data:
        key = " with a transparent colour" if "transparency" in image.info else ""
        notes += [] if image.mode == "RGB" and not key else [f"from mode {image.mode}{key}"]
        image = _over_black(image)
    pixels = np.asarray(image)
    if pixels.ndim == 3 and _is_grey(pixels):
        pixels = np.ascontiguousarray(pixels[..., 1])
        notes.append("equal channels to grey")
    return pixels, tuple(notes)


def _over_black(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba.convert("RGB")
    black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, rgba).convert("RGB")


def _is_grey(pixels: Pixels) -> bool:
    wide = pixels.astype(np.int16)
    spread = np.maximum(abs(wide[..., 0] - wide[..., 1]), abs(wide[..., 2] - wide[..., 1]))
    return bool(spread.max() <= GREY_TOLERANCE)


def _window(values: npt.NDArray[np.generic]) -> tuple[Pixels, str]:
    """Map high-depth values to 8 bits between two percentiles, and say which values they were."""
    finite = np.asarray(values, np.float64)
    if not np.isfinite(finite).all():
        raise RejectedImage("corrupt", "holds values that are not finite")
    low, high = np.percentile(finite, WINDOW_PERCENTILES)
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
