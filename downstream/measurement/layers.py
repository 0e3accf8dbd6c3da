"""Measure the thickness of a layer, such as the oxide of a coating. Imports no torch.

Two values should agree: the mean local thickness along the centre line (twice the distance to the
surface), and the layer's area divided by the length of that line. The centre line is the longest
path in the skeleton, which excludes the side branches caused by a rough surface. The values
disagree if cracks cut the layer, because their walls count as surface: fill them. The layer is
extended beyond the border of the image, so that the border does not count as surface.
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
# Half of the eight neighbours, so that each pair of pixels occurs once: row, column, distance.
_STEPS = ((0, 1, 1.0), (1, 0, 1.0), (1, 1, float(np.sqrt(2))), (1, -1, float(np.sqrt(2))))


@dataclass(frozen=True, slots=True)
class Layer:
    """The thickness of a layer in pixels, over all its pieces; nan without any."""

    mean: float  # local thickness along the centre line
    std: float
    min: float
    max: float
    area_over_length: float
    length: float  # of the centre line, in pixels
    pieces: int


def layer_parts(layer: str) -> list[str]:
    """The classes of a layer: `oxide+crack` is oxide with its cracks filled."""
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
        min=float(local.min()),
        max=float(local.max()),
        area_over_length=area / length,
        length=length,
        pieces=len(pieces),
    )


def _piece_thickness(piece: Region) -> tuple[npt.NDArray[np.float64], float]:
    """Thickness at each pixel of a piece's centre line, and the line's length within the image.

    The piece is enlarged twofold, so that every thickness is an even number of pixels and the
    distance at the centre line is half of it.
    """
    rows, columns = np.flatnonzero(piece.any(1)), np.flatnonzero(piece.any(0))
    box = piece[max(rows[0] - 1, 0) : rows[-1] + 2, max(columns[0] - 1, 0) : columns[-1] + 2]
    margin = 2 * int(np.ceil(distance_transform_edt(np.pad(box, 1)).max())) + 1
    padding = [
        (margin if rows[0] == 0 else 1, margin if rows[-1] == piece.shape[0] - 1 else 1),
        (margin if columns[0] == 0 else 1, margin if columns[-1] == piece.shape[1] - 1 else 1),
    ]
    extended = np.pad(box, padding, mode="edge")
    double = extended.repeat(2, axis=0).repeat(2, axis=1)
    line = _longest_path(skeletonize(double))
    inside = [
        slice(2 * before, size * 2 - 2 * after)
        for (before, after), size in zip(padding, extended.shape, strict=True)
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
    """Rows and columns of the longest shortest path, in order, found by two sweeps."""
    places = np.argwhere(skeleton)
    if len(places) < 2:
        return places[:, 0], places[:, 1]
    numbers = np.full(np.array(skeleton.shape) + 2, -1)
    numbers[1:-1, 1:-1][skeleton] = np.arange(len(places))
    sources, targets, weights = [], [], []
    for down, right, weight in _STEPS:
        neighbours = numbers[places[:, 0] + 1 + down, places[:, 1] + 1 + right]
        known = neighbours >= 0
        sources.append(np.flatnonzero(known))
        targets.append(neighbours[known])
        weights.append(np.full(int(known.sum()), weight))
    graph = coo_array(
        (np.concatenate(weights), (np.concatenate(sources), np.concatenate(targets))),
        shape=(len(places), len(places)),
    ).tocsr()
    end = _farthest(dijkstra(graph, directed=False, indices=0))
    distances, previous = dijkstra(graph, directed=False, indices=end, return_predecessors=True)
    path = [_farthest(distances)]
    while previous[path[-1]] >= 0:
        path.append(int(previous[path[-1]]))
    return places[path, 0], places[path, 1]


def _farthest(distances: npt.NDArray[np.float64]) -> int:
    return int(np.where(np.isfinite(distances), distances, -1).argmax())
