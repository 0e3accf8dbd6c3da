"""How an image is cut into overlapping tiles whose smooth windows sum to one. No torch.

    tile       0 .. margin: no weight, for the network sees the tile's edge there
               margin .. overlap - margin: rises as sin²; the neighbour falls as cos²
               elsewhere 1; at the image's own border there is nothing to blend with

The windows of an axis sum to one at each pixel, and so do their products over two axes. Tiles begin
at multiples of the network's stride: it then sees the same grid in each. Where its receptive field
reaches no further than the margin, the tiles' size changes nothing but rounding.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.cli import UserError

Weights = npt.NDArray[np.float32]
MARGIN_SHARE = 3 / 8  # of the overlap, on each side: the rest blends


@dataclass(frozen=True, slots=True)
class Axis:
    """The tiles along rows or columns, in pixels."""

    length: int  # of the image
    padded: int  # the same, filled up to a multiple of the stride
    tile: int
    overlap: int  # of neighbours, at least; that of the last two is larger
    starts: tuple[int, ...]

    def windows(self) -> Weights:
        """Weights `(tiles, tile)`; they sum to one at each pixel of the padded axis."""
        margin = round(self.overlap * MARGIN_SHARE)
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
    """Lay tiles over `length` pixels: one tile where that is enough.

    Raises `UserError` for a tile that is no multiple of `stride`, or an overlap that leaves less
    than a half of it.
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
