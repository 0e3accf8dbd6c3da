"""Write masks and maps row by row as PNG or TIFF, atomically. Imports no torch.

Rows are first written to a raw file beside the target. A TIFF is then encoded tile by tile in
little memory; a PNG is encoded from memory, one byte per pixel.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from shards.images.decode import Pixels

MAX_PNG_PIXELS = 100_000_000  # larger images are written as TIFF
_TILE = 256  # pixels


def suffix_for(pixels: int) -> str:
    """The file format of masks and maps."""
    return ".tif" if pixels > MAX_PNG_PIXELS else ".png"


class MaskWriter:
    """Writes an 8-bit image; the file appears under its name only after `finish`.

    `palette` `(256, 3)` uint8 sets the displayed colours; readers still get the values.
    """

    def __init__(self, path: Path, height: int, width: int, palette: Pixels | None = None) -> None:
        self.path = path
        self.height, self.width = height, width
        self._palette = palette
        path.parent.mkdir(parents=True, exist_ok=True)
        self._raw = path.with_name(f".{path.name}.raw")
        self._partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        self._stream = self._raw.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._raw.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)

    def add(self, rows: Pixels) -> None:
        """Append rows `(n, width)` uint8."""
        self._stream.write(np.ascontiguousarray(rows, np.uint8).data)

    def every(self, step: int) -> Pixels:
        """Every `step`-th pixel of the added rows."""
        self._stream.flush()
        rows = [self._rows(top, top + 1)[0, ::step] for top in range(0, self.height, step)]
        return np.stack(rows)

    def finish(self) -> None:
        """Encode, sync and rename."""
        self._stream.flush()
        if self.path.suffix == ".png":
            self._write_png()
        else:
            self._write_tiff()
        with self._partial.open("rb") as stream:
            os.fsync(stream.fileno())
        self._partial.replace(self.path)

    def _write_png(self) -> None:
        image = Image.fromarray(self._rows(0, self.height))
        if self._palette is not None:
            image.putpalette(self._palette.tobytes())
        image.save(self._partial)

    def _write_tiff(self) -> None:
        colours: npt.NDArray[np.uint16] | None = None
        if self._palette is not None:
            colours = self._palette.T.astype(np.uint16) * 257
        tifffile.imwrite(
            self._partial,
            self._tiles(),
            shape=(self.height, self.width),
            dtype=np.uint8,
            photometric="palette" if colours is not None else "minisblack",
            colormap=colours,
            compression="zlib",
            tile=(_TILE, _TILE),
            metadata=None,
        )

    def _tiles(self) -> Iterator[Pixels]:
        for top in range(0, self.height, _TILE):
            rows = self._rows(top, min(top + _TILE, self.height))
            short = (-len(rows) % _TILE, -self.width % _TILE)
            rows = np.pad(rows, ((0, short[0]), (0, short[1])))
            for left in range(0, rows.shape[1], _TILE):
                yield np.ascontiguousarray(rows[:, left : left + _TILE])

    def _rows(self, top: int, bottom: int) -> Pixels:
        count = (bottom - top) * self.width
        rows = np.fromfile(self._raw, np.uint8, count, offset=top * self.width)
        return rows.reshape(-1, self.width)
