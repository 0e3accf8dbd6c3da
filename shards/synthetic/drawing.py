"""Tools for drawing: coordinates, random fields, cells, scattered points and windows."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage
from scipy.spatial import cKDTree

Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
Table = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A material before the microscope: grey in [0, 1] and, where known, each pixel's class."""

    image: Field
    mask: Mask | None = None

    @classmethod
    def of(cls, image: Field, mask: npt.NDArray[np.generic] | None = None) -> "Drawing":
        clipped = np.clip(image, 0, 1).astype(np.float32)
        return cls(clipped, None if mask is None else mask.astype(np.uint8))


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def either(rng: np.random.Generator, dark: float, bright: float) -> tuple[float, float]:
    """Two grey levels in random order, for contrasts whose sign depends on detector or etchant."""
    return (dark, bright) if chance(rng, 0.5) else (bright, dark)


def grid(size: int) -> tuple[Field, Field]:
    """Row and column coordinate of every pixel, each (size, size)."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    return y, x


def turned(y: Field, x: Field, angle: float | Field) -> tuple[Field, Field]:
    """The coordinates (across, along) of a direction `angle` radians from the x axis."""
    turn = np.asarray(angle, dtype=np.float32)
    cos, sin = np.cos(turn), np.sin(turn)
    return y * cos - x * sin, x * cos + y * sin


def coverage(depth: Field, softness: float = 1.0) -> Field:
    """How much of each pixel lies inside a shape, from its depth in pixels below the outline."""
    covered: Field = np.clip(depth / np.float32(softness) + np.float32(0.5), 0, 1)
    return covered


def smooth_field(
    rng: np.random.Generator,
    size: int | tuple[int, int],
    scale: float,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> Field:
    """A Gaussian random field, mean 0 and deviation 1 over the image.

    `size` is a square's side, or height and width. `scale` is the deviation in pixels of the
    smoothing kernel, `stretch` times it along `angle`.
    """
    # The Fourier transform wraps around: a margin keeps opposite edges from matching.
    height, width = (size, size) if isinstance(size, int) else size
    full = tuple(
        fft.next_fast_len(side + int(min(2 * scale * stretch, side)), real=True)
        for side in (height, width)
    )
    noise = rng.standard_normal(full, dtype=np.float32)
    fy = fft.fftfreq(full[0]).astype(np.float32)[:, None]
    fx = fft.rfftfreq(full[1]).astype(np.float32)[None, :]
    across, along = turned(fy, fx, angle)
    kernel = np.exp(-2 * (np.pi * scale) ** 2 * (across**2 + (stretch * along) ** 2))
    field = fft.irfft2(fft.rfft2(noise) * kernel, s=full)[:height, :width]
    return np.asarray((field - field.mean()) / (field.std() + 1e-12), dtype=np.float32)


def smooth_profile(rng: np.random.Generator, size: int, scale: float) -> Field:
    """A random curve of `size` values, mean 0 and deviation 1."""
    margin = int(3 * scale)
    noise = rng.standard_normal(size + 2 * margin)
    curve = ndimage.gaussian_filter1d(noise, scale)[margin : margin + size]
    return np.asarray((curve - curve.mean()) / (curve.std() + 1e-12), dtype=np.float32)


def bent(rng: np.random.Generator, size: int, scale: float, amount: float) -> tuple[Field, Field]:
    """Pixel coordinates displaced by `amount` pixels, so that straight shapes come out wavy."""
    y, x = grid(size)
    return (
        y + np.float32(amount) * smooth_field(rng, size, scale),
        x + np.float32(amount) * smooth_field(rng, size, scale),
    )


def scattered(
    rng: np.random.Generator, size: int, radii: Table, rounds: int
) -> npt.NDArray[np.float64]:
    """Centres (y, x) in and around the image, pushed apart `rounds` times where discs overlap."""
    reach = float(radii.max())
    centres = rng.uniform(-1.5 * reach, size + 1.5 * reach, (len(radii), 2))
    for _ in range(rounds):
        pairs = cKDTree(centres).query_pairs(2 * reach, output_type="ndarray")
        step = centres[pairs[:, 0]] - centres[pairs[:, 1]]
        distance = np.linalg.norm(step, axis=1) + 1e-9
        overlap = np.maximum(radii[pairs].sum(axis=1) - distance, 0)
        push = step * (0.5 * overlap / distance)[:, None]
        np.add.at(centres, pairs[:, 0], push)
        np.subtract.at(centres, pairs[:, 1], push)
    return centres


def count_for(size: int, radius: float, fraction: float) -> int:
    """How many discs of `radius` cover `fraction` of the area that `scattered` fills."""
    return max(3, round(fraction * (size + 3 * radius) ** 2 / (np.pi * radius**2)))


@dataclass(frozen=True, slots=True)
class Cells:
    """A partition of the image: each pixel's cell and its distance in pixels to the cell's edge."""

    index: npt.NDArray[np.intp]
    edge: Field
    count: int

    def share(self, values: Table) -> Field:
        """Give each pixel its cell's entry of a table with one value per cell."""
        return values.astype(np.float32)[self.index]


def voronoi(
    rng: np.random.Generator,
    size: int,
    pitch: float,
    stretch: float = 1.0,
    angle: float = 0.0,
    waviness: float = 0.05,
) -> Cells:
    """Voronoi cells about `pitch` pixels wide, `stretch` times as long, with slightly wavy edges.

    `angle` is the direction of their length.
    """
    # A stretched frame is turned as well: it shrinks to keep its corners among the sites.
    fit = 1.0 if stretch == 1.0 else 0.7
    radii = np.full(count_for(size, fit * pitch / 2, 0.8), fit * pitch / 2)
    sites = scattered(rng, size, radii, rounds=int(rng.integers(0, 5)))
    y, x = bent(rng, size, 0.2 * pitch, waviness * pitch)
    across, along = turned(y - size / 2, x - size / 2, angle)
    pixels = np.stack([across * fit, along * fit / stretch], axis=-1).reshape(-1, 2) + size / 2
    distance, nearest = cKDTree(sites).query(pixels, k=2)
    apart = np.linalg.norm(sites[nearest[:, 0]] - sites[nearest[:, 1]], axis=1) + 1e-9
    edge = (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * apart * fit)
    return Cells(
        index=nearest[:, 0].reshape(size, size),
        edge=edge.reshape(size, size).astype(np.float32),
        count=len(sites),
    )


@dataclass(frozen=True, slots=True)
class Window:
    """The part of the image near one object, and each pixel's offset from the object's centre."""

    where: tuple[slice, slice]
    dy: Field
    dx: Field


def windows(size: int, centres: Table, reach: Table) -> Iterator[tuple[int, Window]]:
    """Yield each object's number and window, skipping the objects that lie outside the image."""
    for number, ((y, x), far) in enumerate(zip(centres, reach, strict=True)):
        top, bottom = max(0, int(y - far)), min(size, int(y + far) + 2)
        left, right = max(0, int(x - far)), min(size, int(x + far) + 2)
        if top < bottom and left < right:
            dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
            dx = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(x)
            yield number, Window((slice(top, bottom), slice(left, right)), dy, dx)
