"""Predicts an image of any size, a row of tiles at a time: bands of blended probabilities.

Memory is that of one row of tiles: (classes + 1) x tile x width floats, whatever the height.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from downstream.apply.scan import Scan
from downstream.apply.tiles import Axis, plan_axis

BAND_ROWS = 64  # that a band has at most; what is made of a band needs a multiple of its memory
Maps = npt.NDArray[np.float32]
# uint8 tiles (N, 3, T, T) and the windows (N, T, T) they count with -> maps (N, K, T, T)
Forward = Callable[[torch.Tensor, Maps], Maps]


@dataclass(frozen=True, slots=True)
class Band:
    """Finished rows of an image: `maps` `(K, rows, width)` float32 from row `top` on."""

    top: int
    maps: Maps


@dataclass(frozen=True, slots=True)
class Tiling:
    """How large the tiles are, how far they overlap, and how many are predicted at once."""

    tile: int
    overlap: int
    stride: int
    batch_size: int = 1

    def axes(self, height: int, width: int) -> tuple[Axis, Axis]:
        """The tiles along rows and along columns. Raises `UserError` for sizes that do not fit."""
        return (
            plan_axis(height, self.tile, self.overlap, self.stride),
            plan_axis(width, self.tile, self.overlap, self.stride),
        )


def blended_bands(scan: Scan, forward: Forward, channels: int, tiling: Tiling) -> Iterator[Band]:
    """Yield the image's maps from top to bottom, each row once."""
    rows, columns = tiling.axes(scan.height, scan.width)
    row_windows, column_windows = rows.windows(), columns.windows()
    sums = np.zeros((channels, rows.tile, columns.padded), np.float32)
    for number, top in enumerate(rows.starts):
        strip = scan.padded_rows(top, top + rows.tile, columns.padded)
        for first in range(0, len(columns.starts), tiling.batch_size):
            lefts = columns.starts[first : first + tiling.batch_size]
            tiles = np.stack([strip[:, left : left + columns.tile] for left in lefts])
            windows = np.stack(
                [
                    row_windows[number][:, None] * column_windows[first + i][None]
                    for i in range(len(lefts))
                ]
            )
            inside = windows.copy()  # of the image, without its mirrored rim
            inside[:, max(scan.height - top, 0) :] = 0
            for i, left in enumerate(lefts):
                inside[i, :, max(scan.width - left, 0) :] = 0
            maps = forward(torch.from_numpy(tiles).permute(0, 3, 1, 2), inside)
            for i, left in enumerate(lefts):
                sums[:, :, left : left + columns.tile] += maps[i] * windows[i]
        after = rows.starts[number + 1] if number + 1 < len(rows.starts) else rows.padded
        done = after - top
        end = min(done, scan.height - top)
        for row in range(0, end, BAND_ROWS):
            band = sums[:, row : min(row + BAND_ROWS, end), : scan.width]
            yield Band(top + row, band.copy())
        _move_up(sums, done)


def _move_up(sums: Maps, done: int) -> None:
    """Drop the first `done` rows and append empty ones, in steps that do not overlap: no copy."""
    kept = sums.shape[1] - done
    for row in range(0, kept, done):
        end = min(row + done, kept)
        sums[:, row:end] = sums[:, row + done : end + done]
    sums[:, kept:] = 0
