"""How paper B cuts an image into tiles whose cores alone count. Imports no torch.

    +--------------+   side = tile_core + 2 context_margin (512 + 2 * 62 = 636)
    | margin       |   cores lie edge to edge from the image's top left corner
    |   +------+   |   margins reach into the neighbours; what lies outside the image is mirrored,
    |   | core |   |   also in cores that extend beyond the bottom and the right edge
    |   +------+   |
    +--------------+

Paper B fills its images (1,024 x 717 after halving) to a square of four tiles; filling each axis to
a multiple of `tile_core` gives the same, and no tile without a pixel of the image.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IGNORE = 255  # label of a pixel that counts in neither loss nor metric
TILE_CORE, CONTEXT_MARGIN = 512, 62  # pixels (paper B, section 2.2)

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class TilePlan:
    """The tiles of one image. They are numbered row by row; N = rows x columns."""

    height: int  # of the image, pixels
    width: int
    tile_core: int = TILE_CORE
    context_margin: int = CONTEXT_MARGIN

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.tile_core) < 1 or self.context_margin < 0:
            raise ValueError(
                f"no tiles of tile_core {self.tile_core} and context_margin {self.context_margin} "
                f"pixels in an image of {self.height} x {self.width}"
            )

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
        """Tiles `(N, side, side, ...)` of an image `(H, W, ...)`. Raises `ValueError`."""
        self._check(pixels.shape[:2], "image")
        rows = _mirrored(self._positions(self.rows), self.height)
        columns = _mirrored(self._positions(self.columns), self.width)
        tiles = pixels[rows[:, None, :, None], columns[None, :, None, :]]
        return tiles.reshape(len(self), self.side, self.side, *pixels.shape[2:])

    def counted(self, *, compat_padding: bool = False) -> npt.NDArray[np.bool_]:
        """Which pixels `(N, side, side)` count: each pixel of the image in exactly one tile.

        With `compat_padding` the mirrored pixels of inner parts count too: paper B does not say
        that it leaves them out (30 % of its squares).
        """
        rows = self._own(self._positions(self.rows), self.height, compat_padding)
        columns = self._own(self._positions(self.columns), self.width, compat_padding)
        both = rows[:, None, :, None] & columns[None, :, None, :]
        return both.reshape(len(self), self.side, self.side)

    def extract_labels(self, mask: Array, *, compat_padding: bool = False) -> Array:
        """Tiles `(N, side, side)` of a mask `(H, W)`, `IGNORE` wherever `counted` is False."""
        counted = self.counted(compat_padding=compat_padding)
        return np.where(counted, self.extract(mask), np.asarray(IGNORE, mask.dtype))

    def centre(self, tiles: Any) -> Any:
        """The cores `(..., tile_core, tile_core)` of arrays or tensors `(..., side, side)`."""
        core = slice(self.context_margin, self.context_margin + self.tile_core)
        return tiles[..., core, core]

    def stitch(self, maps: Array) -> Array:
        """The image's map `(C, H, W)` from those of its cores `(N, C, tile_core, tile_core)`.

        Raises `ValueError` for maps of another number or size.
        """
        if (
            maps.ndim != 4
            or len(maps) != len(self)
            or maps.shape[2:] != (self.tile_core, self.tile_core)
        ):
            raise ValueError(
                f"wanted maps of shape ({len(self)}, C, {self.tile_core}, {self.tile_core}), "
                f"not {maps.shape}"
            )
        channels = maps.shape[1]
        grid = maps.reshape(self.rows, self.columns, channels, self.tile_core, self.tile_core)
        whole = grid.transpose(2, 0, 3, 1, 4).reshape(
            channels, self.rows * self.tile_core, self.columns * self.tile_core
        )
        return whole[:, : self.height, : self.width]

    def _positions(self, count: int) -> npt.NDArray[np.int64]:
        """Where in the image each tile's rows (or columns) lie: `(count, side)`, also outside."""
        starts = np.arange(count) * self.tile_core - self.context_margin
        return np.asarray(starts[:, None] + np.arange(self.side), np.int64)

    def _own(
        self, positions: npt.NDArray[np.int64], length: int, compat_padding: bool
    ) -> npt.NDArray[np.bool_]:
        own = np.zeros(positions.shape, np.bool_)
        own[:, self.context_margin : self.context_margin + self.tile_core] = True
        return own if compat_padding else own & (positions < length)

    def _check(self, shape: tuple[int, ...], what: str) -> None:
        if shape != (self.height, self.width):
            raise ValueError(
                f"this plan is of {self.height} x {self.width} pixels, the {what} has {shape}"
            )


def _mirrored(positions: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """Fold positions back into 0 … length - 1 as between two mirrors, the border pixel doubled."""
    folded = positions % (2 * length)
    return np.where(folded < length, folded, 2 * length - 1 - folded)
