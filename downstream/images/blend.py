"""Predict an image of any size one row of tiles at a time, as bands of blended probabilities.

Memory holds one row of tiles: (classes + 1) x tile x width floats, whatever the image's height.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from downstream.images.scan import ImageReader
from downstream.images.tiles import Axis, plan_axis

BAND_ROWS = 64  # at most; processing a band takes several times its memory
Maps = npt.NDArray[np.float32]
# uint8 tiles (N, 3, T, T) and their weights (N, T, T) -> maps (N, K, T, T)
Forward = Callable[[torch.Tensor, Maps], Maps]


@dataclass(frozen=True, slots=True)
class Band:
    """Finished rows of an image: `maps` is `(K, rows, width)` float32, starting at row `top`."""

    top: int
    maps: Maps


@dataclass(frozen=True, slots=True)
class Tiling:
    """Tile size and overlap in pixels, and the number of tiles per batch."""

    tile: int
    overlap: int
    stride: int
    batch_size: int = 1

    def axes(self, height: int, width: int) -> tuple[Axis, Axis]:
        """Tiles along rows and along columns. Raises `UserError` for invalid sizes."""
        return (
            plan_axis(height, self.tile, self.overlap, self.stride),
            plan_axis(width, self.tile, self.overlap, self.stride),
        )


def blended_bands(
    reader: ImageReader, forward: Forward, channels: int, tiling: Tiling
) -> Iterator[Band]:
    """Yield the maps of an image from top to bottom, each row once."""
    rows, columns = tiling.axes(reader.height, reader.width)
    row_windows, column_windows = rows.windows(), columns.windows()
    sums = np.zeros((channels, rows.tile, columns.padded), np.float32)
    for number, top in enumerate(rows.starts):
        strip = reader.padded_rows(top, top + rows.tile, columns.padded)
        for first in range(0, len(columns.starts), tiling.batch_size):
            lefts = columns.starts[first : first + tiling.batch_size]
            tiles = np.stack([strip[:, left : left + columns.tile] for left in lefts])
            windows = (
                row_windows[number][:, None] * column_windows[first : first + len(lefts), None]
            )
            inside = windows.copy()  # without the mirrored padding
            inside[:, max(reader.height - top, 0) :] = 0
            for i, left in enumerate(lefts):
                inside[i, :, max(reader.width - left, 0) :] = 0
            maps = forward(torch.from_numpy(tiles).permute(0, 3, 1, 2), inside)
            for i, left in enumerate(lefts):
                sums[:, :, left : left + columns.tile] += maps[i] * windows[i]
        after = rows.starts[number + 1] if number + 1 < len(rows.starts) else rows.padded
        done = after - top
        end = min(done, reader.height - top)
        for row in range(0, end, BAND_ROWS):
            band = sums[:, row : min(row + BAND_ROWS, end), : reader.width]
            yield Band(top + row, band.copy())
        _shift_up(sums, done)


def _shift_up(sums: Maps, done: int) -> None:
    """Drop the first `done` rows and append zeros, in place and in steps that do not overlap."""
    kept = sums.shape[1] - done
    for row in range(0, kept, done):
        end = min(row + done, kept)
        sums[:, row:end] = sums[:, row + done : end + done]
    sums[:, kept:] = 0
