"""Render a scene as etched and seen by a microscope: micrographs with exact masks."""

import numpy as np
from scipy import ndimage

from downstream.domains.synthetic.scene import PIXEL_NM, Scene, draw_scene
from downstream.domains.synthetic.shift import Shift
from shards.images.decode import Pixels
from shards.synthetic.drawing import Field, Mask, coverage, smooth_field


def draw_image(shift: Shift, shape: tuple[int, int], *key: int) -> tuple[Pixels, Mask]:
    """A micrograph `(h, w)` uint8 and its mask (0, 1), as a function of `key`.

    `shape` is the field of view in pixels of 27.7 nm; coarser images have fewer pixels. Shifts with
    the same bainite fraction and key show the same specimen.
    """
    scene = draw_scene(np.random.default_rng((*key, 0)), shape, shift.bainite)
    return render(scene, shift, np.random.default_rng((*key, 1)))


def render(scene: Scene, shift: Shift, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    """Etch, image and digitise a scene: `(h, w)` uint8 and the mask of the same pixels."""
    shape = _recorded_shape(scene.mask.shape, shift.pixel_nm)
    image = _etched(scene, shift, rng)
    image = ndimage.gaussian_filter(image, shift.blur_nm / PIXEL_NM)
    image = _resampled(image, shape)
    image = 0.5 + shift.gain * (image - 0.5)
    image = np.clip(image, 0, 1) ** np.float32(shift.gamma)
    image = image * (1 + shift.shading * _unevenness(rng, shape))
    image = image + shift.noise * np.sqrt(0.4 + image) * rng.standard_normal(
        shape, dtype=np.float32
    )
    grey = 1 - image if shift.inverted else image
    pixels = np.clip(np.rint(255 * grey), 0, 255).astype(np.uint8)
    mask = (_resampled(scene.mask.astype(np.float32), shape) > 0.5).astype(np.uint8)
    return pixels, mask


def _etched(scene: Scene, shift: Shift, rng: np.random.Generator) -> Field:
    """Grey values of the surface, before optics and detector."""
    films = _line(scene.film, shift.film_nm * scene.film_strength) * np.sqrt(scene.film_strength)
    kept = np.clip((scene.edge_strength - np.float32(shift.fading)) * 4 + 1, 0.1, 1)
    edges = _line(scene.edge, shift.boundary_nm) * kept
    steps = _line(scene.subgrain, 45.0)
    # Over-etching enlarges islands as it widens films.
    islands = coverage(scene.island + np.float32((shift.film_nm - 62) / (4 * PIXEL_NM)))
    grey = shift.matrix + shift.tone * scene.tone + shift.rough * scene.rough
    relief = np.maximum.reduce(
        [shift.film * films, shift.boundary * edges, shift.island * islands, shift.subgrain * steps]
    )
    grey = grey + relief + shift.shadow * _shaded(relief)
    return np.asarray(grey + _artefacts(shift, rng, scene.mask.shape), np.float32)


def _line(distance: Field, width_nm: Field | float) -> Field:
    """Coverage of pixels by lines that may be thinner than a pixel."""
    half = np.asarray(width_nm, np.float32) / np.float32(2 * PIXEL_NM)
    covered = np.clip(half + np.float32(0.5) - distance, 0, 1)
    return np.asarray(covered * np.minimum(1, 2 * half), np.float32)


def _shaded(relief: Field) -> Field:
    """Bright slopes towards a detector at the upper left, dark slopes away from it."""
    smooth = ndimage.gaussian_filter(relief, 1.0)
    rows, columns = np.gradient(smooth)
    return np.asarray(rows + columns, np.float32) * np.float32(1.4)


def _artefacts(shift: Shift, rng: np.random.Generator, shape: tuple[int, ...]) -> Field:
    """Pits with a bright rim, and stains, at random positions."""
    height, width = shape
    grey = np.zeros((height, width), np.float32)
    area = height * width * (PIXEL_NM / 1000) ** 2
    for _ in range(rng.poisson(shift.artefacts * area / 100)):
        radius = float(np.exp(rng.normal(np.log(7.0), 0.5)))  # pixels: 0.2 um
        y, x, squeeze, depth = rng.uniform((0, 0, 0.6, 0.1), (height, width, 1.6, 0.35))
        top, left = max(0, int(y - 4 * radius)), max(0, int(x - 4 * radius))
        rows = np.arange(top, min(height, int(y + 4 * radius) + 1), dtype=np.float32)
        columns = np.arange(left, min(width, int(x + 4 * radius) + 1), dtype=np.float32)
        r = np.hypot((rows[:, None] - y) * squeeze, (columns[None, :] - x) / squeeze) / radius
        profile = -np.exp(-(r**4)) + 1.3 * np.exp(-(((r - 1.25) / 0.25) ** 2))
        grey[top : top + len(rows), left : left + len(columns)] += np.float32(depth) * profile
    if shift.artefacts > 0:
        stains = smooth_field(rng, (height, width), 25.0)
        grey += np.float32(min(0.012 * shift.artefacts, 0.1)) * coverage(stains - 1.2, 0.3)
    return grey


def _unevenness(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    rows = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    tilt_y, tilt_x, bow = rng.normal(0, 1, 3).astype(np.float32)
    return np.asarray(tilt_y * rows + tilt_x * columns + bow * (rows**2 + columns**2 - 0.67))


def _recorded_shape(shape: tuple[int, ...], pixel_nm: float) -> tuple[int, int]:
    rows, columns = (max(32, round(length * PIXEL_NM / pixel_nm)) for length in shape)
    return rows, columns


def _resampled(field: Field, shape: tuple[int, int]) -> Field:
    """Mean over the area of each recorded pixel, from cumulative sums."""
    if field.shape == shape:
        return field
    for axis, length in enumerate(shape):
        field = _averaged(np.moveaxis(field, axis, 0), length)
        field = np.moveaxis(field, 0, axis)
    return field


def _averaged(field: Field, length: int) -> Field:
    total = np.concatenate((np.zeros((1, field.shape[1])), np.cumsum(field, axis=0, dtype=float)))
    borders = np.linspace(0, len(field), length + 1)
    low = np.minimum(borders.astype(np.int64), len(field) - 1)
    sums = total[low] + (borders - low)[:, None] * (total[low + 1] - total[low])
    return np.asarray(np.diff(sums, axis=0) * (length / len(field)), np.float32)
