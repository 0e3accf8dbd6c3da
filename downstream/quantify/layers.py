"""The thickness of a layer, such as the oxide of a coating. Imports no torch.

Two figures that should agree: the local thickness along the layer's middle line (twice the distance
to its surface), and its area over the length of that line. The middle line is the longest path in
the skeleton, so that the bumps of a rough surface, whose skeletons are side branches, do not count.
Where cracks cut the layer they disagree, for their walls count as its surface: fill them.
At the image's border the layer is taken to go on as it is; there it is not a surface.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from skimage.measure import label
from skimage.morphology import skeletonize

Region = npt.NDArray[np.bool_]
# Neighbours to the right and below: each pair of pixels once.
_STEPS = ((0, 1, 1.0), (1, 0, 1.0), (1, 1, float(np.sqrt(2))), (1, -1, float(np.sqrt(2))))


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's thickness in pixels, over all its pieces; nan where there is none."""

    mean: float  # local thickness along the middle line
    std: float
    least: float
    most: float
    area_over_length: float
    length: float  # of the middle line, in pixels
    pieces: int


def layer_parts(layer: str) -> list[str]:
    """The classes that a layer is made of: `oxide+crack` is oxide with its cracks filled."""
    return layer.split("+")


def measure_layer(region: Region, min_area: int) -> Layer:
    """Measure all connected pieces of at least `min_area` pixels."""
    labels = label(region, connectivity=2)
    sizes = np.bincount(labels.ravel())
    pieces = [piece for piece in range(1, len(sizes)) if sizes[piece] >= min_area]
    thicknesses, length, area = [], 0.0, 0
    for piece in pieces:
        found, along = _piece_thickness(labels == piece)
        thicknesses.append(found)
        length += along
        area += int(sizes[piece])
    if not thicknesses or length == 0:
        nan = float("nan")
        return Layer(nan, nan, nan, nan, nan, length, len(pieces))
    local = np.concatenate(thicknesses)
    return Layer(
        mean=float(local.mean()),
        std=float(local.std()),
        least=float(local.min()),
        most=float(local.max()),
        area_over_length=area / length,
        length=length,
        pieces=len(pieces),
    )


def _piece_thickness(piece: Region) -> tuple[npt.NDArray[np.float64], float]:
    """Thickness at each pixel of a piece's middle line, and the line's length within the image.

    The piece is doubled in size: then each thickness is even, and a middle line has the full one.
    """
    rows, columns = np.flatnonzero(piece.any(1)), np.flatnonzero(piece.any(0))
    box = piece[max(rows[0] - 1, 0) : rows[-1] + 2, max(columns[0] - 1, 0) : columns[-1] + 2]
    reach = 2 * int(np.ceil(distance_transform_edt(np.pad(box, 1)).max())) + 1
    rim = [
        (reach if rows[0] == 0 else 1, reach if rows[-1] == piece.shape[0] - 1 else 1),
        (reach if columns[0] == 0 else 1, reach if columns[-1] == piece.shape[1] - 1 else 1),
    ]
    beyond = np.pad(box, rim, mode="edge")
    double = beyond.repeat(2, axis=0).repeat(2, axis=1)
    line = _longest_path(skeletonize(double))
    inside = [
        slice(2 * before, size * 2 - 2 * after)
        for (before, after), size in zip(rim, beyond.shape, strict=True)
    ]
    y, x = line
    within = (
        (y >= inside[0].start)
        & (y < inside[0].stop)
        & (x >= inside[1].start)
        & (x < inside[1].stop)
    )
    if not within.any():
        return np.zeros(0), 0.0
    distance = distance_transform_edt(double)
    steps = np.hypot(np.diff(y), np.diff(x)) * (within[1:] & within[:-1])
    return np.asarray(distance[y[within], x[within]]), float(steps.sum() / 2 + 0.5)


def _longest_path(skeleton: Region) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows and columns of the longest of the shortest paths, in order; by two sweeps."""
    places = np.argwhere(skeleton)
    if len(places) < 2:
        return places[:, 0], places[:, 1]
    numbers = np.full(np.array(skeleton.shape) + 2, -1)
    numbers[1:-1, 1:-1][skeleton] = np.arange(len(places))
    here, there, weights = [], [], []
    for down, right, weight in _STEPS:
        neighbours = numbers[places[:, 0] + 1 + down, places[:, 1] + 1 + right]
        known = neighbours >= 0
        here.append(np.flatnonzero(known))
        there.append(neighbours[known])
        weights.append(np.full(int(known.sum()), weight))
    graph = coo_array(
        (np.concatenate(weights), (np.concatenate(here), np.concatenate(there))),
        shape=(len(places), len(places)),
    ).tocsr()
    far = _farthest(dijkstra(graph, directed=False, indices=0))
    distances, before = dijkstra(graph, directed=False, indices=far, return_predecessors=True)
    path = [_farthest(distances)]
    while before[path[-1]] >= 0:
        path.append(int(before[path[-1]]))
    return places[path, 0], places[path, 1]


def _farthest(distances: npt.NDArray[np.float64]) -> int:
    return int(np.where(np.isfinite(distances), distances, -1).argmax())
