"""Reads an image band by band, so that a large TIFF never lies in memory as a whole. No torch.

Images up to `WHOLE_PIXELS`, and all that are no plain TIFF, are decoded at once, exactly as the
training images were (`shards.images`). A larger TIFF (grey of any depth, or RGB) is read from its
strips or tiles, or mapped where it is not compressed. Two things are then estimated from every 64th
row: whether RGB is grey in truth, and the window of 32-bit images; that of 16-bit images comes from
the counts of all values. Of 16 bits per colour the upper 8 are taken, as in training.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from downstream.seg.dataset import upper_bits
from shards.cli import UserError
from shards.databar import MAX_COLUMNS, find_data_bar
from shards.images import (
    MIN_SIDE,
    WINDOW_PERCENTILES,
    Pixels,
    RejectedImage,
    decode_image,
    is_grey,
)

WHOLE_PIXELS = 50_000_000  # decoded at once: 150 MB of RGB, a second or two
_BLOCK_ROWS = 256  # in which a large image is looked through
_SAMPLE = 64  # of so many rows one is looked at
_UPPER_BITS = "the upper 8 of 16 bits per colour"

Values = npt.NDArray[Any]
ReadRows = Callable[[int, int], Values]


@dataclass(frozen=True, slots=True)
class Scan:
    """An image as a source of rows; `rows` gives `(n, W, 3)` uint8."""

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
        """Rows `top` to `bottom`, at most to the image's end, as RGB."""
        values = self._read(top, min(bottom, self.height))
        return np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values

    def padded_rows(self, top: int, bottom: int, width: int) -> Pixels:
        """As `rows`, mirrored beyond the image's end to `bottom` and `width`."""
        rows = self.rows(top, bottom)
        missing = (bottom - top - len(rows), width - self.width)
        if missing == (0, 0):
            return rows
        return np.pad(rows, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")

    def thumbnail(self, max_side: int) -> tuple[Pixels, int]:
        """Every k-th pixel `(h, w, 3)` so that no side exceeds `max_side`; and k."""
        step = -(-max(self.height, self.width) // max_side)
        height = max(_BLOCK_ROWS // step, 1) * step
        blocks = [
            self.rows(top, top + height)[::step, ::step].copy()
            for top in range(0, self.height, height)
        ]
        return np.ascontiguousarray(np.concatenate(blocks)), step


def open_scan(path: Path, *, crop_bar: bool = False, whole_pixels: int = WHOLE_PIXELS) -> Scan:
    """Open an image; `crop_bar` leaves out the microscope's data bar.

    Raises `UserError` for a file that is no image, or one that the bit-depth policy refuses.
    """
    try:
        scan = _large_tiff(path, whole_pixels) or _whole(path)
    except RejectedImage as reject:
        raise UserError(f"cannot read {path}: {reject.detail}") from reject
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return without_bar(scan) if crop_bar else scan


def scan_of(name: str, pixels: Pixels, notes: tuple[str, ...] = ()) -> Scan:
    """A scan of an image in memory, `(H, W)` or `(H, W, 3)` uint8."""
    height, width = pixels.shape[:2]
    return Scan(name, height, width, notes, lambda top, bottom: pixels[top:bottom])


def without_bar(scan: Scan) -> Scan:
    """`scan` less the microscope's data bar, where it has one."""
    step = -(-scan.width // MAX_COLUMNS)
    columns = [
        scan.rows(top, top + _BLOCK_ROWS)[:, ::step] for top in range(0, scan.height, _BLOCK_ROWS)
    ]
    bar = find_data_bar(np.ascontiguousarray(np.concatenate(columns)))
    if bar is None:
        return scan
    if bar.edge == "bottom":
        return replace(scan, height=bar.row, notes=(*scan.notes, f"data bar from row {bar.row}"))
    return replace(
        scan,
        height=scan.height - bar.row,
        notes=(*scan.notes, f"data bar to row {bar.row}"),
        _read=lambda top, bottom: scan._read(top + bar.row, bottom + bar.row),
    )


def file_stamp(path: Path) -> list[int]:
    """Size in bytes and time of change in ns: another file under the same name differs in them."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _whole(path: Path) -> Scan:
    data = path.read_bytes()
    try:
        micrograph = decode_image(data)
    except RejectedImage as reject:
        if reject.reason != "deep_colour":
            raise
        return scan_of(path.stem, upper_bits(data), (_UPPER_BITS,))
    return scan_of(path.stem, micrograph.pixels, tuple(micrograph.notes.values()))


def _large_tiff(path: Path, whole_pixels: int) -> Scan | None:
    """A large TIFF read in parts; None for what is small, or no TIFF that can be."""
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
            offset = page.dataoffsets[0] if page.is_memmappable else None
    except (tifffile.TiffFileError, IndexError):
        return None
    if min(page.imagelength, page.imagewidth) < MIN_SIDE:
        return None
    if offset is None:
        read = _segment_reader(path, page)
    else:
        byteorder = np.dtype(page.dtype).newbyteorder(tiff.byteorder)
        mapped = np.memmap(path, byteorder, "r", offset, page.shape)

        def read(top: int, bottom: int) -> Values:
            return np.asarray(mapped[top:bottom])

    scan = Scan(path.stem, page.imagelength, page.imagewidth, ("read in parts",), read)
    if pages > 1:
        scan = replace(scan, notes=(*scan.notes, f"page 1 of {pages}"))
    if len(page.shape) == 2:
        return _windowed(scan, page.dtype)
    if page.dtype == np.uint16:

        def upper(top: int, bottom: int) -> Values:
            return (np.asarray(read(top, bottom)) >> 8).astype(np.uint8)

        return replace(scan, notes=(*scan.notes, _UPPER_BITS), _read=upper)
    return _folded(scan)


def _is_plain(page: Any) -> bool:
    """Whether the first page is grey or RGB of up to 16 bits, upright, and in one plane."""
    grey = len(page.shape) == 2 and page.photometric in (
        tifffile.PHOTOMETRIC.MINISBLACK,
        tifffile.PHOTOMETRIC.RGB,
    )
    colour = len(page.shape) == 3 and page.shape[2] == 3 and page.dtype in (np.uint8, np.uint16)
    upright = page.tags.get("Orientation") is None or page.tags["Orientation"].value == 1
    whole_bytes = page.dtype is not None and page.bitspersample % 8 == 0
    # Without the package imagecodecs, tifffile leaves LZW and JPEG to Pillow, which reads it whole.
    decodes = page.compression in tifffile.TIFF.DECOMPRESSORS
    in_rows = page.shape[:2] == (page.imagelength, page.imagewidth) and page.planarconfig == 1
    return bool((grey or colour) and upright and whole_bytes and in_rows and decodes)


def _segment_reader(path: Path, page: Any) -> ReadRows:
    """Reads rows from a compressed TIFF's strips or tiles, decoding those that they touch."""
    high = page.tilelength if page.is_tiled else page.rowsperstrip
    per_row = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1

    def read(top: int, bottom: int) -> Values:
        first, last = top // high, -(-bottom // high)
        rows = np.zeros(((last - first) * high, *page.shape[1:]), page.dtype)
        with path.open("rb") as stream:
            for index in range(first * per_row, last * per_row):
                stream.seek(page.dataoffsets[index])
                data = stream.read(page.databytecounts[index])
                # None for a sparse file's empty part
                segment, place, shape = page.decode(data or None, index, jpegtables=page.jpegtables)
                if segment is None:
                    continue
                y, x = place[2] - first * high, place[3]
                target = rows[y : y + shape[1], x : x + shape[2]]
                part = segment[0, : target.shape[0], : target.shape[1]]  # a tile may reach beyond
                target[:] = part.reshape(target.shape)
        return rows[top - first * high : bottom - first * high]

    return read


def _folded(scan: Scan) -> Scan:
    """RGB with equal channels is grey, as in training."""
    sample = np.concatenate(
        [scan._read(top, top + 1) for top in range(0, scan.height, _SAMPLE)]
    ).repeat(8, axis=0)  # `is_grey` looks at every eighth row
    if not is_grey(sample):
        return scan
    notes = (*scan.notes, "equal channels to grey")
    return replace(scan, notes=notes, _read=lambda top, bottom: scan._read(top, bottom)[..., 1])


def _windowed(scan: Scan, dtype: np.dtype[Any]) -> Scan:
    """High depths mapped to 8 bits between the percentiles that `shards.images` uses."""
    if dtype == np.uint8:
        return scan
    low, high = _limits(scan, dtype)
    if high <= low:
        raise RejectedImage("blank", f"nearly every pixel is {low:g}")

    def read(top: int, bottom: int) -> Values:
        values = np.asarray(scan._read(top, bottom), np.float64)
        return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)

    return replace(scan, notes=(*scan.notes, f"windowed {low:g}..{high:g} of {dtype}"), _read=read)


def _limits(scan: Scan, dtype: np.dtype[Any]) -> tuple[float, float]:
    tops = range(0, scan.height, _BLOCK_ROWS)
    if dtype == np.uint16:
        counts = np.zeros(1 << 16, np.int64)
        for top in tops:
            block = scan._read(top, min(top + _BLOCK_ROWS, scan.height))
            counts += np.bincount(block.ravel(), minlength=1 << 16)
        # The values as they would be found in order, without putting them in order.
        reached = np.cumsum(counts)
        low, high = (
            float(np.searchsorted(reached, share / 100 * (reached[-1] - 1), side="right"))
            for share in WINDOW_PERCENTILES
        )
        return low, high
    sample = np.concatenate(
        [scan._read(top, top + 1) for top in range(0, scan.height, _SAMPLE)]
    ).astype(np.float64)
    if not np.isfinite(sample).all():
        raise RejectedImage("corrupt", "holds values that are not finite")
    low, high = np.percentile(sample, WINDOW_PERCENTILES)
    return float(low), float(high)
