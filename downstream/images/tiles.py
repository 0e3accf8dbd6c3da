"""Cut an image into overlapping tiles whose smooth windows sum to one. Imports no torch.

    window     0 .. margin: zero, because the network is affected by the tile's edge there
               margin .. overlap - margin: rises as sin²; the neighbour's falls as cos²
               elsewhere one; also at the border of the image, where there is no neighbour

The windows of an axis sum to one at each pixel, and so do their products over two axes. Tiles start
at multiples of the network's stride, so that its grid is the same in each. If its receptive field
is not larger than the margin, the tile size changes the result by rounding only.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from micrograph.cli import UserError

Weights = npt.NDArray[np.float32]
MARGIN_FRACTION = 3 / 8  # of the overlap, on each side; the rest is blended


@dataclass(frozen=True, slots=True)
class Axis:
    """The tiles along rows or columns, in pixels."""

    length: int  # of the image
    padded: int  # length rounded up to a multiple of the stride
    tile: int
    overlap: int  # of neighbours; the last two may overlap more
    starts: tuple[int, ...]

    def windows(self) -> Weights:
        """Weights `(tiles, tile)` that sum to one at each pixel of the padded axis."""
        margin = round(self.overlap * MARGIN_FRACTION)
        ramp = self.overlap - 2 * margin
        rise = np.ones(self.tile)
        rise[:margin] = 0
        rise[margin : margin + ramp] = np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / ramp) ** 2
        windows = np.ones((len(self.starts), self.tile))
        windows[1:] *= rise
        windows[:-1] *= rise[::-1]
        total = np.zeros(self.padded)
        for start, window in zip(self.starts, windows, strict=True):
            total[start : start + self.tile] += window
        for start, window in zip(self.starts, windows, strict=True):
            window /= total[start : start + self.tile]
        return windows.astype(np.float32)


def plan_axis(length: int, tile: int, overlap: int, stride: int) -> Axis:
    """Cover `length` pixels with tiles: with a single one if it is large enough.

    Raises `UserError` if tile or overlap is not a multiple of `stride`, or if the overlap exceeds
    half of the tile.
    """
    if tile < stride or tile % stride:
        raise UserError(f"tile must be a multiple of {stride} pixels, not {tile}")
    if not 0 <= overlap <= tile // 2 or overlap % stride:
        raise UserError(
            f"overlap must be a multiple of {stride} pixels and at most half of the tile "
            f"({tile // 2}), not {overlap}"
        )
    padded = -(-length // stride) * stride
    if padded <= tile:
        return Axis(length, padded, padded, 0, (0,))
    last = padded - tile
    starts = (*range(0, last, tile - overlap), last)
    return Axis(length, padded, tile, overlap, starts)
