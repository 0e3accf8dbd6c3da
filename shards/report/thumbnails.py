"""Thumbnails for the report, as data URIs: of stored images, and of the files they came from."""

import base64
import io
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from micrograph.cli import UserError
from micrograph.remote_files import cached_store, is_archive, is_url
from shards.images.decode import FORMATS, Pixels, RejectedImage, decode_raw, shrink, to_eight_bits
from shards.shard_format.schema import Manifest, idx_file
from shards.sources.listing import Listing, SourceFile

# Limits of what a page may cost. Larger files are not shown; the page says how many.
MAX_PIXELS = 25_000_000  # 5000 x 5000; at 16 bits half a second and 600 MB
MAX_FILE_BYTES = 128_000_000
MAX_DEPTH = 256 * 1024**2  # bytes into a compressed tar, which is read from its start: seconds

_JPEG_QUALITY = 72  # of 112-px pictures: 3 kB each

SourcePath = tuple[str, str]  # name of the source, path in it


@dataclass(frozen=True, slots=True)
class Picture:
    """A thumbnail, and the size in pixels of what it shows."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to show a source file; `stretch` makes the few values of a mask visible."""

    side: int  # pixels, the longest of the thumbnail
    stretch: bool = False


class StoredImages:
    """The images of a shard set by their keys, found through the indexes beside the tars."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._tars = [folder / shard.name for i in manifest.splits.values() for shard in i.shards]
        # tar, then offset and size of the image and of its provenance
        self._places: dict[str, tuple[int, int, int, int, int]] = {}
        for number, tar in enumerate(self._tars):
            for key, place in _indexed(tar):
                self._places[key] = (number, *place)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def image(self, key: str) -> bytes:
        tar, offset, size, _, _ = self._places[key]
        return _read_at(self._tars[tar], offset, size)

    def provenance(self, key: str) -> bytes:
        tar, _, _, offset, size = self._places[key]
        return _read_at(self._tars[tar], offset, size)

    def picture(self, key: str, side: int) -> Picture | None:
        """None where the image is not in the set, or does not decode."""
        return draw(self.image(key), Wanted(side)) if key in self else None


def draw_originals(
    listing: Listing | None, wanted: Mapping[SourcePath, Wanted]
) -> dict[SourcePath, Picture]:
    """Pictures of source files; those that are gone, unreadable or too large are left out."""
    if listing is None:
        return {}
    found = {}
    gone: set[str] = set()  # URLs: a server that does not answer takes a minute each time
    files = [
        (file, (source.spec.name, file.name))
        for source in listing.sources
        for file in source.files
        if (source.spec.name, file.name) in wanted
    ]
    files.sort(key=lambda pair: (pair[0].location, pair[0].entry.offset, pair[1]))
    for file, name in files:
        if file.location in gone or not _is_affordable(file):
            continue
        try:
            data = cached_store(file.location).read(file.entry)
        except UserError:
            if is_url(file.location):
                gone.add(file.location)
            continue
        if picture := draw(data, wanted[name]):
            found[name] = picture
    return found


def draw(data: bytes, wanted: Wanted) -> Picture | None:
    """A thumbnail of an image file, even of a rejected one; None where it does not decode."""
    pixels = _decode(data)
    if pixels is None:
        return None
    height, width = pixels.shape[:2]
    small = shrink(pixels, wanted.side)
    if wanted.stretch and small.min() < small.max():
        low, high = int(small.min()), int(small.max())
        small = ((small.astype(np.uint16) - low) * 255 // (high - low)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).save(stream, "JPEG", quality=_JPEG_QUALITY)
    uri = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(uri, width, height)


def _decode(data: bytes) -> Pixels | None:
    try:
        return to_eight_bits(decode_raw(data, max_pixels=MAX_PIXELS).values).pixels
    except RejectedImage as reject:
        if reject.reason == "too_large":
            return None
    try:  # what was rejected for its size, depth or content can still be shown
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            grey = image.mode.startswith(("1", "L", "I", "F"))
            return np.asarray(image.convert("L" if grey else "RGB"))
    except Exception:  # decoders raise anything; there is nothing to show then
        return None


def _is_affordable(file: SourceFile) -> bool:
    if (file.entry.size or 0) > MAX_FILE_BYTES:
        return False
    compressed = is_archive(file.location) and not file.location.lower().endswith((".zip", ".tar"))
    return not compressed or file.entry.offset <= MAX_DEPTH


def _indexed(tar: Path) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Key, and where image and provenance lie, of each sample of a tar."""
    try:
        lines = tar.with_name(idx_file(tar.name)).read_text(encoding="ascii").splitlines()[1:]
    except (OSError, ValueError):
        return
    for line in lines:
        parts = re.findall(r"(\S+) (\d+) (\d+) (\S+)", line)
        places = {suffix: (int(offset), int(size)) for suffix, offset, size, _ in parts}
        images = [place for suffix, place in places.items() if suffix not in ("cls", "json")]
        if len(images) == 1 and "json" in places:
            yield parts[0][3].split(".", 1)[0], (*images[0], *places["json"])


def _read_at(path: Path, offset: int, size: int) -> bytes:
    try:
        with path.open("rb") as stream:
            return os.pread(stream.fileno(), size, offset)
    except OSError:
        return b""  # does not decode, so is shown as missing
