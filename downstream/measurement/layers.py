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
from skimage.graph import MCP_Geometric
from skimage.measure import label
from skimage.morphology import skeletonize

Region = npt.NDArray[np.bool_]
Pixel = tuple[np.intp, ...]


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
    measured = [_piece_thickness(labels == piece) for piece in pieces]
    length = sum((along for _, along in measured), 0.0)
    if length == 0:
        nan = float("nan")
        return Layer(nan, nan, nan, nan, nan, length, len(pieces))
    local = np.concatenate([thickness for thickness, _ in measured])
    return Layer(
        mean=float(local.mean()),
        std=float(local.std()),
        min=float(local.min()),
        max=float(local.max()),
        area_over_length=int(sizes[pieces].sum()) / length,
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
    y, x = _longest_path(skeletonize(double))
    in_rows, in_columns = (
        (line >= 2 * before) & (line < 2 * (size - after))
        for line, (before, after), size in zip((y, x), padding, extended.shape, strict=True)
    )
    within = in_rows & in_columns
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
    costs = np.where(skeleton, 1.0, -1.0)  # negative: not passable
    _, end = _farthest(costs, tuple(places[0]))
    sweep, start = _farthest(costs, end)
    path = np.array(sweep.traceback(start))
    return path[:, 0], path[:, 1]


def _farthest(costs: npt.NDArray[np.float64], start: Pixel) -> tuple[MCP_Geometric, Pixel]:
    """Distances from `start`, diagonals as sqrt(2), and the pixel with the largest."""
    sweep = MCP_Geometric(costs)
    distances, _ = sweep.find_costs([start])
    reached = np.where(np.isfinite(distances), distances, -1)
    return sweep, np.unravel_index(reached.argmax(), reached.shape)
