"""A fingerprint of an image: what the search for near-duplicates keeps of its pixels (5 KB).

Up to 96 places that a shifted, rescaled or recompressed copy shows as well, each with 64 bits that
describe its surroundings, and a thumbnail. Places are blobs by the determinant of the Hessian
(Lindeberg 1998, doi:10.1023/A:1008045108935) on a pyramid, spread over the image by adaptive
non-maximal suppression; their surroundings are 8 x 8 samples free of gain and offset, both as in
Brown, Szeliski and Winder 2005 (doi:10.1109/CVPR.2005.235). The bits are signs of their cosine
transform, lowest frequency first, so a prefix of a code is a coarser code.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.images import Pixels

# Every image is scaled to this area, so that a rescaled copy becomes the same image again.
BASE_SIDE = 128  # as good as 192 on micrographs of known overlap, in two thirds of the time
LEVEL_RATIO = 2 ** (-1 / 3)  # 12 % off at worst, between two levels: a tenth of the bits change
PLACES_PER_LEVEL = (28, 22, 18, 16, 12)  # finest first; a crop shows coarse places as fine ones
PLACES = sum(PLACES_PER_LEVEL)
PLACE_UNIT = 16  # steps per pixel of the base image
CODE_BITS = 64
THUMBNAIL_SIDE = 64

FINGERPRINT = np.dtype(
    [
        ("height", "<u4"),
        ("width", "<u4"),
        ("count", "<u2"),  # of the places; what follows them is zero
        ("levels", "u1", PLACES),
        ("places", "<u2", (PLACES, 2)),  # x, y in 1 / PLACE_UNIT pixels of the base image
        ("codes", "<u8", PLACES),
        ("thumbnail", "u1", (THUMBNAIL_SIDE, THUMBNAIL_SIDE)),
    ]
)
Fingerprints = npt.NDArray[np.void]  # of dtype FINGERPRINT, any shape

_Floats = npt.NDArray[np.float32]
_Ints = npt.NDArray[np.int64]

_SAMPLES = 8  # along each axis of a patch
_SAMPLE_STEP = 3  # pixels of the level; a patch spans 22
_MARGIN = 12  # pixels between a place and the border that its patch needs
_CANDIDATES = 4  # strongest maxima per kept place
_STRONGER = 0.9  # Brown et al.: a neighbour suppresses when it is clearly stronger
_HESSIAN_WEIGHT = 0.81  # of the mixed derivative: SURF's (0.9)^2 punishes edges less than 1 would
_GREY_STEPS = 16  # levels are kept in 1 / 16 grey values, whole numbers, see `_codes`
_THUMBNAIL_STD = 40.0  # grey values


def describe(pixels: Pixels) -> Fingerprints:
    """The fingerprint of one image, shape (); `tobytes` and `np.frombuffer` store and load many.

    An image with less than 32 pixels across, once scaled to `BASE_SIDE`**2, gets no places.
    """
    image = Image.fromarray(pixels)
    base = _base_image(image if image.mode == "L" else image.convert("L"))
    fingerprint = np.zeros((), FINGERPRINT)
    fingerprint["height"], fingerprint["width"] = pixels.shape[:2]
    fingerprint["thumbnail"] = _thumbnail(base)
    count = 0
    for level, quota in enumerate(PLACES_PER_LEVEL):
        values = _level(base, level)
        if min(values.shape) < 2 * _MARGIN + 8:
            break
        smooth = _smooth(values)
        x, y, dark = _blobs(smooth, quota)
        here = slice(count, count + len(x))
        fingerprint["codes"][here] = _codes(smooth, np.rint(x), np.rint(y), dark)
        fingerprint["levels"][here] = level
        height, width = values.shape
        fingerprint["places"][here, 0] = np.rint((x + 0.5) * base.width / width * PLACE_UNIT)
        fingerprint["places"][here, 1] = np.rint((y + 0.5) * base.height / height * PLACE_UNIT)
        count += len(x)
    fingerprint["count"] = count
    return fingerprint


def base_scale(height: npt.ArrayLike, width: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Pixels of the base image per pixel of the image."""
    area = np.asarray(height, np.float64) * np.asarray(width, np.float64)
    return np.asarray(BASE_SIDE / np.sqrt(area))


def _base_image(grey: Image.Image) -> Image.Image:
    scale = float(base_scale(grey.height, grey.width))
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    method = Image.Resampling.BILINEAR if scale < 1 else Image.Resampling.BICUBIC
    return grey.resize(size, method, reducing_gap=2.0).convert("F")


def _thumbnail(base: Image.Image) -> Pixels:
    """The whole image as a square, its contrast set, so that a faint one keeps its texture."""
    small = np.asarray(base.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR))
    gain = _THUMBNAIL_STD / max(float(small.std()), 1e-3)
    stretched = (small - float(small.mean())) * gain + 128
    return np.clip(np.rint(stretched), 0, 255).astype(np.uint8)


def _level(base: Image.Image, level: int) -> _Floats:
    scale = LEVEL_RATIO**level
    size = (max(1, round(base.width * scale)), max(1, round(base.height * scale)))
    scaled = base if level == 0 else base.resize(size, Image.Resampling.BILINEAR)
    return np.rint(np.asarray(scaled) * np.float32(_GREY_STEPS))


def _smooth(values: _Floats) -> _Floats:
    """Convolve with 1 4 6 4 1 along both axes: a Gaussian of sigma 1."""
    a = _mirrored(values)
    a = a[:, :-4] + a[:, 4:] + 4 * (a[:, 1:-3] + a[:, 3:-1]) + 6 * a[:, 2:-2]
    a = a[:-4] + a[4:] + 4 * (a[1:-3] + a[3:-1]) + 6 * a[2:-2]
    return a * np.float32(1 / 256)


def _mirrored(values: _Floats) -> _Floats:
    """Two pixels more on each side; np.pad(mode="symmetric") takes ten times as long."""
    height, width = values.shape
    a = np.empty((height + 4, width + 4), np.float32)
    a[2:-2, 2:-2] = values
    a[:2, 2:-2], a[-2:, 2:-2] = values[1::-1], values[:-3:-1]
    a[:, :2], a[:, -2:] = a[:, 3:1:-1], a[:, -3:-5:-1]
    return a


def _blobs(smooth: _Floats, quota: int) -> tuple[_Floats, _Floats, npt.NDArray[np.bool_]]:
    """Up to `quota` blobs, strong and far from stronger ones: x, y and whether each is dark."""
    edge = _MARGIN - 3
    s = smooth[edge:-edge, edge:-edge]
    centre = 2 * s[2:-2, 2:-2]
    xx = s[2:-2, 4:] + s[2:-2, :-4] - centre
    yy = s[4:, 2:-2] + s[:-4, 2:-2] - centre
    xy = (s[4:, 4:] + s[:-4, :-4] - s[4:, :-4] - s[:-4, 4:]) * np.float32(0.25)
    response = xx * yy - np.float32(_HESSIAN_WEIGHT) * xy * xy
    rows, columns = _spread(response, quota)
    x = columns + _peak(response, rows, columns, (0, 1)) + (edge + 2)
    y = rows + _peak(response, rows, columns, (1, 0)) + (edge + 2)
    return x, y, (xx + yy)[rows, columns] > 0


def _spread(response: _Floats, quota: int) -> tuple[_Ints, _Ints]:
    """The maxima that are farthest from a stronger one (adaptive non-maximal suppression)."""
    inner = response[1:-1, 1:-1]
    across = np.maximum(np.maximum(response[:, :-2], response[:, 1:-1]), response[:, 2:])
    highest = np.maximum(np.maximum(across[:-2], across[1:-1]), across[2:])
    rows, columns = np.nonzero((inner > 0) & (inner >= highest))
    strength = inner[rows, columns]
    order = np.argsort(-strength, kind="stable")[: quota * _CANDIDATES]
    rows, columns, strength = rows[order], columns[order], strength[order]
    y, x = rows.astype(np.float32), columns.astype(np.float32)  # exact: below 2^24 when squared
    distance = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    suppressed = strength[:, None] < np.float32(_STRONGER) * strength
    radius = np.where(suppressed, distance, np.float32(np.inf)).min(1, initial=np.inf)
    kept = np.argsort(-radius, kind="stable")[:quota]
    return rows[kept] + 1, columns[kept] + 1


def _peak(response: _Floats, rows: _Ints, columns: _Ints, step: tuple[int, int]) -> _Floats:
    """How far along `step` the top of a parabola through three values lies, at most half."""
    before = response[rows - step[0], columns - step[1]]
    here = response[rows, columns]
    after = response[rows + step[0], columns + step[1]]
    bend = 2 * here - before - after
    offset: _Floats = (after - before) / np.maximum(2 * bend, np.float32(1e-6))
    return np.clip(offset, np.float32(-0.5), np.float32(0.5))


def _codes(
    smooth: _Floats, x: _Floats, y: _Floats, dark: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint64]:
    """One bit says dark or bright, 63 are the signs of the patch's cosine coefficients."""
    corners = _smooth(smooth)
    corners = corners[1:] + corners[:-1]
    corners = np.rint(corners[:, 1:] + corners[:, :-1])  # between pixels, where samples lie
    offsets = np.arange(_SAMPLES) * _SAMPLE_STEP - (_SAMPLES * _SAMPLE_STEP - 2) // 2
    rows = y.astype(np.int64)[:, None, None] + offsets[:, None]
    columns = x.astype(np.int64)[:, None, None] + offsets
    patches = corners[rows, columns].reshape(-1, _SAMPLES**2)
    # Whole numbers in float64 add up exactly in any order, so a sign is the same on every machine.
    coefficients = patches.astype(np.float64) @ _COSINES
    bits = np.concatenate([dark[:, None], coefficients > 0], axis=1)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def _cosines() -> npt.NDArray[np.float64]:
    """(64 samples, 63 frequencies) of the two-dimensional DCT, rounded to whole numbers."""
    angle = np.outer(np.arange(_SAMPLES), 2 * np.arange(_SAMPLES) + 1) * np.pi / (2 * _SAMPLES)
    wave = np.rint(np.cos(angle) * 64)
    order = sorted(
        ((v, u) for v in range(_SAMPLES) for u in range(_SAMPLES) if u + v > 0),
        key=lambda vu: (vu[0] ** 2 + vu[1] ** 2, vu),
    )
    return np.stack([np.outer(wave[v], wave[u]).ravel() for v, u in order], axis=1)


_COSINES = _cosines()
