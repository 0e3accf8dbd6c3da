"""Draw the geometry of a steel: lath-shaped bainite in ferrite with carbon-rich islands.

Paper B, section 2.1: lath-shaped bainite is the foreground; polygonal and irregular ferrite with a
dispersed granular second phase is the background. A scene contains geometry only (distances in
pixels of `PIXEL_NM`); `bainite_view` renders it as etched and seen by a microscope.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from shards.synthetic.drawing import Cells, Field, Mask, smooth_field, turned

PIXEL_NM = 27.7  # of paper B's SEM images and of scenes
_MICROMETRE = 1000 / PIXEL_NM  # pixels

# Micrometres. Laths of low-carbon bainite are 0.2 to 0.6 wide.
AUSTENITE_GRAIN = 4.4  # a former grain becomes bainite or ferrite
PACKET = 3.0  # laths of one direction
FERRITE_GRAIN = 2.1
LATH_WIDTH = (0.2, 0.42)
FILM_LENGTH = 0.8  # length over which a carbide film appears and vanishes
SUBGRAIN = 0.4  # along a lath
BAND_WIDTH = (0.4, 0.8)  # between rows of islands in granular bainite, which is background
BAND_LENGTH = 0.35

_FAR = 1e3  # pixels: distance where a feature does not exist
_TABLE = 1 << 14  # random values, indexed by a hash of cell, lath and position


@dataclass(frozen=True, slots=True)
class Scene:
    """Geometry fields `(H, W)`; distances in pixels, to the centre of a line."""

    mask: Mask  # 1 is lath-shaped bainite
    film: Field  # distance to the nearest carbide film
    film_strength: Field  # 0 … 1: how strongly that film is present (films are interrupted)
    subgrain: Field  # distance to the nearest sub-grain boundary in a lath
    edge: Field  # distance to the nearest grain or packet boundary
    edge_strength: Field  # 0 … 1: how strongly that boundary is etched initially
    island: Field  # depth in pixels inside carbon-rich islands, negative outside
    tone: Field  # grey of each grain or packet, mean 0, standard deviation about 1
    rough: Field  # fine relief of the etched surface, mean 0, standard deviation 1


def draw_scene(rng: np.random.Generator, shape: tuple[int, int], fraction: float) -> Scene:
    """Draw a specimen of `shape` pixels with about `fraction` of bainite.

    `fraction` only decides how many grains transform; all else depends on the generator only.
    """
    former = _grains(rng, shape, AUSTENITE_GRAIN, stretch=1.25)
    packets = _grains(rng, shape, PACKET, stretch=1.2)
    ferrite = _grains(rng, shape, FERRITE_GRAIN, stretch=1.15)
    bainite = _transformed(rng, former, fraction)
    # Packets end at grain boundaries: laths do not continue in another former grain.
    crystals = packets.index + packets.count * former.index
    laths = _lamellae(rng, crystals, LATH_WIDTH, FILM_LENGTH, missing=(0.22, 0.62))
    bands = _lamellae(rng, ferrite.index, BAND_WIDTH, BAND_LENGTH, missing=(0.5, 1.6))
    tone = np.where(bainite, _hashed(rng, crystals), _hashed(rng, ferrite.index))
    return Scene(
        mask=bainite.astype(np.uint8),
        film=np.where(bainite, laths.distance, bands.distance),
        film_strength=np.where(bainite, laths.strength, 0.85 * bands.strength),
        subgrain=np.where(bainite, laths.step, np.float32(_FAR)),
        edge=np.where(
            bainite, np.minimum(packets.edge, former.edge), _ferrite_edge(bainite, ferrite.edge)
        ),
        edge_strength=0.5 + 0.5 * smooth_field(rng, shape, 0.9 * _MICROMETRE),
        island=np.where(bainite, np.float32(-_FAR), _islands(rng, ferrite)),
        tone=np.sqrt(np.float32(12)) * (tone - np.float32(0.5)),
        rough=0.8 * smooth_field(rng, shape, 1.1) + 0.6 * smooth_field(rng, shape, 5.0),
    )


@dataclass(frozen=True, slots=True)
class _Lamellae:
    """Parallel films in each cell: distance to the nearest, its strength, distance to steps."""

    distance: Field
    strength: Field
    step: Field


def _grains(
    rng: np.random.Generator, shape: tuple[int, int], pitch_um: float, stretch: float
) -> Cells:
    """Voronoi cells about `pitch_um` wide with wavy edges, elongated horizontally (rolling).

    Each square of a lattice contains one site, so the nearest two are among the nine squares around
    a pixel: ten times faster than a tree search, and it gives grains of similar sizes.
    """
    pitch = np.float32(pitch_um * _MICROMETRE)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    y = 2 + y / pitch + np.float32(0.08) * smooth_field(rng, shape, 0.2 * float(pitch))
    x = 2 + x / (stretch * pitch) + np.float32(0.08) * smooth_field(rng, shape, 0.2 * float(pitch))
    rows, columns = int(y.max()) + 3, int(x.max()) + 3
    inside = rng.uniform(0.04, 0.96, (2, rows * columns)).astype(np.float32)
    row, column = y.astype(np.int64), x.astype(np.int64)
    index = np.zeros(shape, np.int64)
    first, second = np.full((2, *shape), np.inf, np.float32)  # squared distances to two sites
    first_y, first_x, second_y, second_x = np.zeros((4, *shape), np.float32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            site = (row + down) * columns + (column + right)
            site_y = inside[0][site] + (row + down)
            site_x = inside[1][site] + (column + right)
            distance = ((site_y - y) ** 2 + (site_x - x) ** 2).astype(np.float32)
            nearer = distance < first
            next_best = ~nearer & (distance < second)
            second = np.where(nearer, first, np.where(next_best, distance, second))
            second_y = np.where(nearer, first_y, np.where(next_best, site_y, second_y))
            second_x = np.where(nearer, first_x, np.where(next_best, site_x, second_x))
            first, index = np.where(nearer, distance, first), np.where(nearer, site, index)
            first_y, first_x = np.where(nearer, site_y, first_y), np.where(nearer, site_x, first_x)
    apart = np.hypot(first_y - second_y, first_x - second_x)
    edge = (second - first) / (2 * apart) * pitch
    return Cells(index, np.asarray(edge, np.float32), rows * columns)


def _transformed(rng: np.random.Generator, former: Cells, fraction: float) -> npt.NDArray[np.bool_]:
    """Choose random former grains that cover about `fraction` of the image."""
    order = rng.permutation(former.count)
    areas = np.bincount(former.index.ravel(), minlength=former.count)[order]
    covered = np.concatenate(([0], np.cumsum(areas))) / former.index.size
    chosen = np.zeros(former.count, np.bool_)
    chosen[order[: np.abs(covered - fraction).argmin()]] = True
    return np.asarray(chosen[former.index])


def _lamellae(
    rng: np.random.Generator,
    cells: npt.NDArray[np.int64],
    width_um: tuple[float, float],
    length_um: float,
    missing: tuple[float, float],
) -> _Lamellae:
    """`missing`: range of the fraction of a film that is absent, drawn for each cell."""
    angle = np.float32(np.pi) * _hashed(rng, cells)
    width = np.float32(_MICROMETRE) * (
        width_um[0] + (width_um[1] - width_um[0]) * _hashed(rng, cells)
    )
    y, x = np.mgrid[: cells.shape[0], : cells.shape[1]].astype(np.float32)
    for bend, scale in ((0.09, 0.6), (0.018, 0.11)):  # um: curved laths, wavy films
        y += np.float32(bend * _MICROMETRE) * smooth_field(rng, cells.shape, scale * _MICROMETRE)
        x += np.float32(bend * _MICROMETRE) * smooth_field(rng, cells.shape, scale * _MICROMETRE)
    across, along = turned(y, x, angle)
    place = across / width
    # Uneven widths: positions are shifted by less than the distance of films.
    place = place + np.float32(0.7) * (_interpolated(rng, cells, place) - np.float32(0.5))
    nearest = np.rint(place).astype(np.int64)
    presence = _interpolated(
        rng, cells + 131 * nearest, along / np.float32(length_um * _MICROMETRE)
    )
    threshold = missing[0] + (missing[1] - missing[0]) * _hashed(rng, cells)
    laths = cells + 131 * np.floor(place).astype(np.int64)
    steps = along / np.float32(SUBGRAIN * _MICROMETRE) + _hashed(rng, laths)
    steps = steps + np.float32(0.35) * place  # inclined
    return _Lamellae(
        distance=np.abs(place - nearest) * width,
        strength=np.clip((presence - threshold) * 5 + np.float32(0.6), 0, 1),
        step=np.abs(steps - np.rint(steps)) * np.float32(SUBGRAIN * _MICROMETRE),
    )


def _islands(rng: np.random.Generator, ferrite: Cells) -> Field:
    """Depth in granular carbides and larger martensite-austenite islands, many at boundaries."""
    shape = ferrite.index.shape
    at_boundary = np.exp(-((ferrite.edge / np.float32(0.12 * _MICROMETRE)) ** 2))
    crowded = np.float32(0.35) * smooth_field(rng, shape, 1.2 * _MICROMETRE)
    small = smooth_field(rng, shape, 0.055 * _MICROMETRE) + np.float32(0.9) * at_boundary + crowded
    large = smooth_field(rng, shape, 0.16 * _MICROMETRE) + at_boundary + crowded
    depth = np.maximum((small - np.float32(2.2)) * 2, (large - np.float32(2.55)) * np.float32(5.5))
    return np.asarray(depth, np.float32)


def _ferrite_edge(bainite: npt.NDArray[np.bool_], edge: Field) -> Field:
    """Distance to the nearest ferrite boundary or bainite."""
    if not bainite.any():
        return edge
    away = ndimage.distance_transform_edt(~bainite).astype(np.float32) - np.float32(0.5)
    return np.asarray(np.minimum(edge, away), np.float32)


def _interpolated(rng: np.random.Generator, cells: npt.NDArray[np.int64], place: Field) -> Field:
    """A random curve along `place` for each cell, 0 … 1, linear between integers."""
    table = rng.random(_TABLE, np.float32)
    low = np.floor(place)
    weight = (place - low).astype(np.float32)
    index = low.astype(np.int64)
    before = table[_slots(cells, index)]
    after = table[_slots(cells, index + 1)]
    return np.asarray(before + weight * (after - before), np.float32)


def _hashed(rng: np.random.Generator, cells: npt.NDArray[np.int64]) -> Field:
    """A random value for each cell, 0 … 1."""
    table = rng.random(_TABLE, np.float32)
    return np.asarray(table[_slots(cells, np.zeros((), np.int64))])


def _slots(cells: npt.NDArray[np.int64], index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    # Knuth's multiplicative hash separates neighbouring cells and indices.
    mixed = (cells * 40503 + index) * 2654435761
    return np.asarray((mixed >> 15) & (_TABLE - 1), np.int64)
