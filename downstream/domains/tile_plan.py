"""Cut an image into paper B's tiles, of which only the core is scored. Imports no torch.

    +--------------+   side = core + 2 margin (512 + 2 * 62 = 636)
    | margin       |   cores tile the image edge to edge from its top left corner
    |   +------+   |   margins overlap the neighbours; outside of the image, tiles are filled by
    |   | core |   |   mirroring: margins, and cores that exceed it at the bottom and right
    |   +------+   |
    +--------------+

Paper B pads its images (1,024 x 717 after halving) to a square of four tiles; padding each axis to
a multiple of the core gives the same, without tiles that contain no pixel of the image.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IGNORE = 255  # label of a pixel that is used in neither loss nor metric
TILE_CORE, CONTEXT_MARGIN = 512, 62  # pixels (paper B, section 2.2)

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class TilePlan:
    """The tiles of an image, numbered row by row; N = rows x columns."""

    height: int  # of the image, pixels
    width: int
    tile_core: int = TILE_CORE
    context_margin: int = CONTEXT_MARGIN

    @property
    def side(self) -> int:
        return self.tile_core + 2 * self.context_margin

    @property
    def rows(self) -> int:
        return -(-self.height // self.tile_core)

    @property
    def columns(self) -> int:
        return -(-self.width // self.tile_core)

    def __len__(self) -> int:
        return self.rows * self.columns

    def extract(self, pixels: Array) -> Array:
        """Tiles `(N, side, side, ...)` of an image `(H, W, ...)`."""
        core, margin = self.tile_core, self.context_margin
        padding = [
            (margin, self.rows * core - self.height + margin),
            (margin, self.columns * core - self.width + margin),
            *[(0, 0)] * (pixels.ndim - 2),
        ]
        padded = np.pad(pixels, padding, mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (self.side, self.side), (0, 1))
        tiles = np.moveaxis(windows[::core, ::core], (-2, -1), (2, 3))
        stacked = tiles.reshape(len(self), self.side, self.side, *pixels.shape[2:])
        return np.require(stacked, requirements=("C", "W"))  # a single row of tiles is still a view

    def counted(self, *, compat_padding: bool = False) -> npt.NDArray[np.bool_]:
        """Mask `(N, side, side)` of the scored pixels: each pixel of the image in exactly one tile.

        With `compat_padding` the mirrored pixels of cores are scored too: paper B does not say that
        it excludes them (30 % of its squares).
        """
        core, margin = self.tile_core, self.context_margin
        scored = np.full((self.rows * core, self.columns * core), compat_padding)
        scored[: self.height, : self.width] = True
        cores = scored.reshape(self.rows, core, self.columns, core).swapaxes(1, 2)
        return np.pad(cores.reshape(-1, core, core), ((0, 0), (margin, margin), (margin, margin)))

    def extract_labels(self, mask: Array, *, compat_padding: bool = False) -> Array:
        """Tiles `(N, side, side)` of a mask `(H, W)`, `IGNORE` wherever `counted` is False."""
        counted = self.counted(compat_padding=compat_padding)
        return np.where(counted, self.extract(mask), np.asarray(IGNORE, mask.dtype))

    def centre(self, tiles: Any) -> Any:
        """The cores `(..., core, core)` of arrays or tensors `(..., side, side)`."""
        core = slice(self.context_margin, self.context_margin + self.tile_core)
        return tiles[..., core, core]

    def stitch(self, maps: Array) -> Array:
        """The map `(C, H, W)` of the image from those of its cores `(N, C, core, core)`."""
        core = self.tile_core
        grid = maps.reshape(self.rows, self.columns, -1, core, core).transpose(2, 0, 3, 1, 4)
        whole = grid.reshape(-1, self.rows * core, self.columns * core)
        return whole[:, : self.height, : self.width]
