"""Read an image row by row, so that a large TIFF is never in memory as a whole. Imports no torch.

Images of up to `WHOLE_PIXELS`, and all that are not plain TIFF files, are decoded at once, exactly
as training images are (`shards.images.decode`). A larger TIFF (grey of any depth, or RGB) is read
from its strips or tiles, or memory-mapped if it is not compressed. Two properties are then
estimated from every 64th row: whether an RGB image is in fact grey, and the intensity window of
32-bit images; the window of 16-bit images comes from a histogram of all pixels. RGB of 16 bits per
channel is reduced to the upper 8 bits, as in training.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from downstream.images.deep_colour import upper_bits
from micrograph.cli import UserError
from shards.images.databar import MAX_COLUMNS, find_data_bar
from shards.images.decode import (
    MIN_SIDE,
    WINDOW_PERCENTILES,
    Pixels,
    RejectedImage,
    decode_image,
    is_grey,
)

WHOLE_PIXELS = 50_000_000  # decoded at once: 150 MB as RGB, one or two seconds
_BLOCK_ROWS = 256  # read at once when scanning a large image
_SAMPLE_STEP = 64  # rows; estimates use every 64th
_UPPER_BITS = "the upper 8 of 16 bits per colour"

Values = npt.NDArray[Any]
ReadRows = Callable[[int, int], Values]


@dataclass(frozen=True, slots=True)
class ImageReader:
    """Gives the rows of an image as `(n, W, 3)` uint8."""

    name: str
    height: int
    width: int
    notes: tuple[str, ...]
    _read: ReadRows

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.width

    def rows(self, top: int, bottom: int) -> Pixels:
        """Rows `top` to `bottom`, clipped to the image, as RGB."""
        values = self._read(top, min(bottom, self.height))
        return np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values

    def padded_rows(self, top: int, bottom: int, width: int) -> Pixels:
        """As `rows`, padded by mirroring up to `bottom` and `width`."""
        rows = self.rows(top, bottom)
        padding = ((0, bottom - top - len(rows)), (0, width - self.width), (0, 0))
        return np.pad(rows, padding, mode="symmetric") if np.any(padding) else rows

    def thumbnail(self, max_side: int) -> tuple[Pixels, int]:
        """Every k-th pixel `(h, w, 3)`, with no side above `max_side`; and k."""
        step = -(-max(self.height, self.width) // max_side)
        height = max(_BLOCK_ROWS // step, 1) * step
        blocks = [
            self.rows(top, top + height)[::step, ::step].copy()
            for top in range(0, self.height, height)
        ]
        return np.ascontiguousarray(np.concatenate(blocks)), step


def open_image(
    path: Path, *, crop_bar: bool = False, whole_pixels: int = WHOLE_PIXELS
) -> ImageReader:
    """Open an image file; `crop_bar` crops the microscope's data bar.

    Raises `UserError` for a file that cannot be read as an image.
    """
    try:
        reader = _open_large_tiff(path, whole_pixels) or _decode_whole(path)
    except RejectedImage as reject:
        raise UserError(f"cannot read {path}: {reject.detail}") from reject
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return crop_data_bar(reader) if crop_bar else reader


def array_reader(name: str, pixels: Pixels, notes: tuple[str, ...] = ()) -> ImageReader:
    """A reader of an image in memory, `(H, W)` or `(H, W, 3)` uint8."""
    height, width = pixels.shape[:2]
    return ImageReader(name, height, width, notes, lambda top, bottom: pixels[top:bottom])


def crop_data_bar(reader: ImageReader) -> ImageReader:
    """The image without the microscope's data bar, if it has one."""
    step = -(-reader.width // MAX_COLUMNS)
    columns = [
        reader.rows(top, top + _BLOCK_ROWS)[:, ::step]
        for top in range(0, reader.height, _BLOCK_ROWS)
    ]
    bar = find_data_bar(np.ascontiguousarray(np.concatenate(columns)))
    if bar is None:
        return reader
    if bar.edge == "bottom":
        return replace(
            reader, height=bar.row, notes=(*reader.notes, f"data bar from row {bar.row}")
        )
    return replace(
        reader,
        height=reader.height - bar.row,
        notes=(*reader.notes, f"data bar to row {bar.row}"),
        _read=lambda top, bottom: reader._read(top + bar.row, bottom + bar.row),
    )


def file_stamp(path: Path) -> list[int]:
    """Size in bytes and modification time in ns, to notice that a file has changed."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _decode_whole(path: Path) -> ImageReader:
    data = path.read_bytes()
    try:
        micrograph = decode_image(data)
    except RejectedImage as reject:
        if reject.reason != "deep_colour":
            raise
        return array_reader(path.stem, upper_bits(data), (_UPPER_BITS,))
    return array_reader(path.stem, micrograph.pixels, tuple(micrograph.notes.values()))


def _open_large_tiff(path: Path, whole_pixels: int) -> ImageReader | None:
    """A reader of a large plain TIFF; None for any other file."""
    with path.open("rb") as stream:
        if stream.read(2) not in (b"II", b"MM"):
            return None
    try:
        with tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages.first
            small = page.imagelength * page.imagewidth <= whole_pixels
            if small or not _is_plain(page):
                return None
            pages = len(tiff.pages)
    except (tifffile.TiffFileError, IndexError):
        return None
    if min(page.imagelength, page.imagewidth) < MIN_SIDE:
        return None
    if not page.is_memmappable:
        read = _segment_reader(path, page)
    else:
        mapped = tifffile.memmap(path, page=0, mode="r")

        def read(top: int, bottom: int) -> Values:
            return np.asarray(mapped[top:bottom])

    reader = ImageReader(path.stem, page.imagelength, page.imagewidth, ("read in parts",), read)
    if pages > 1:
        reader = replace(reader, notes=(*reader.notes, f"page 1 of {pages}"))
    if len(page.shape) == 2:
        return _window_to_uint8(reader, page.dtype)
    if page.dtype == np.uint16:

        def upper(top: int, bottom: int) -> Values:
            return (np.asarray(read(top, bottom)) >> 8).astype(np.uint8)

        return replace(reader, notes=(*reader.notes, _UPPER_BITS), _read=upper)
    return _grey_if_equal_channels(reader)


def _is_plain(page: Any) -> bool:
    """Whether the first page is upright, in one plane, and grey or RGB of up to 16 bits."""
    grey = len(page.shape) == 2 and page.photometric in (
        tifffile.PHOTOMETRIC.MINISBLACK,
        tifffile.PHOTOMETRIC.RGB,
    )
    colour = len(page.shape) == 3 and page.shape[2] == 3 and page.dtype in (np.uint8, np.uint16)
    upright = page.tags.get("Orientation") is None or page.tags["Orientation"].value == 1
    whole_bytes = page.dtype is not None and page.bitspersample % 8 == 0
    # Without imagecodecs, tifffile cannot decode LZW and JPEG: Pillow reads such files as a whole.
    decodes = page.compression in tifffile.TIFF.DECOMPRESSORS
    in_rows = page.shape[:2] == (page.imagelength, page.imagewidth) and page.planarconfig == 1
    return bool((grey or colour) and upright and whole_bytes and in_rows and decodes)


def _segment_reader(path: Path, page: Any) -> ReadRows:
    """Read rows of a compressed TIFF by decoding the strips or tiles that contain them."""
    high = page.tilelength if page.is_tiled else page.rowsperstrip
    per_row = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1

    def read(top: int, bottom: int) -> Values:
        first, last = top // high, -(-bottom // high)
        rows = np.zeros(((last - first) * high, *page.shape[1:]), page.dtype)
        with path.open("rb") as stream:
            for index in range(first * per_row, last * per_row):
                stream.seek(page.dataoffsets[index])
                data = stream.read(page.databytecounts[index])
                # None: an empty segment of a sparse file
                segment, place, shape = page.decode(data or None, index, jpegtables=page.jpegtables)
                if segment is None:
                    continue
                y, x = place[2] - first * high, place[3]
                target = rows[y : y + shape[1], x : x + shape[2]]
                part = segment[
                    0, : target.shape[0], : target.shape[1]
                ]  # a tile may exceed the image
                target[:] = part.reshape(target.shape)
        return rows[top - first * high : bottom - first * high]

    return read


def _grey_if_equal_channels(reader: ImageReader) -> ImageReader:
    """Read RGB with equal channels as grey, as in training."""
    sample = np.concatenate(
        [reader._read(top, top + 1) for top in range(0, reader.height, _SAMPLE_STEP)]
    ).repeat(8, axis=0)  # `is_grey` looks at every eighth row
    if not is_grey(sample):
        return reader
    notes = (*reader.notes, "equal channels to grey")
    return replace(reader, notes=notes, _read=lambda top, bottom: reader._read(top, bottom)[..., 1])


def _window_to_uint8(reader: ImageReader, dtype: np.dtype[Any]) -> ImageReader:
    """Map deeper grey values to 8 bits between the percentiles of `shards.images.decode`."""
    if dtype == np.uint8:
        return reader
    low, high = _window_limits(reader, dtype)
    if high <= low:
        raise RejectedImage("blank", f"nearly every pixel is {low:g}")

    def read(top: int, bottom: int) -> Values:
        values = np.asarray(reader._read(top, bottom), np.float64)
        return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)

    return replace(
        reader, notes=(*reader.notes, f"windowed {low:g}..{high:g} of {dtype}"), _read=read
    )


def _window_limits(reader: ImageReader, dtype: np.dtype[Any]) -> tuple[float, float]:
    tops = range(0, reader.height, _BLOCK_ROWS)
    if dtype == np.uint16:
        counts = np.zeros(1 << 16, np.int64)
        for top in tops:
            block = reader._read(top, min(top + _BLOCK_ROWS, reader.height))
            counts += np.bincount(block.ravel(), minlength=1 << 16)
        # Nearest-rank percentiles from the histogram, without sorting the pixels.
        ranks = np.cumsum(counts)
        low, high = (
            float(np.searchsorted(ranks, percentile / 100 * (ranks[-1] - 1), side="right"))
            for percentile in WINDOW_PERCENTILES
        )
        return low, high
    sample = np.concatenate(
        [reader._read(top, top + 1) for top in range(0, reader.height, _SAMPLE_STEP)]
    ).astype(np.float64)
    if not np.isfinite(sample).all():
        raise RejectedImage("corrupt", "contains values that are not finite")
    low, high = np.percentile(sample, WINDOW_PERCENTILES)
    return float(low), float(high)
