"""The spool: encoded images on disk, and one record of fixed size each in memory (300 bytes).

Images, provenance and fingerprints are stored chunk by chunk:

    NAME.images     each image's encoded bytes, followed by its provenance as JSON
    NAME.records    two arrays, one after the other: RECORD and FINGERPRINT
    NAME.json       the rejected files; written last: a chunk that has it is complete
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from micrograph.cli import UserError
from shards.duplicates.fingerprint import FINGERPRINT, Fingerprints
from shards.shard_format.schema import Rejected, npy

RECORD = np.dtype(
    [
        ("key", "S64"),
        ("label", "<u4"),
        ("source", "<u2"),  # position in the listing
        ("chunk", "<u4"),  # position in the catalog's chunks
        ("offset", "<u8"),  # of the encoded image in NAME.images
        ("size", "<u4"),
        ("provenance_size", "<u4"),  # bytes of provenance behind the image
        ("height", "<u4"),  # pixels, as stored
        ("width", "<u4"),
        ("channels", "u1"),
        ("image_sha256", "S32"),  # of the encoded image: equal when the stored pixels are
        ("specimen", "S16"),  # hash of the specimen that its source names, or empty
        ("decisions", "<u2"),  # flags of shards.images.decode.Decision
        ("sums", "<u8", 3),  # of the stored pixels per channel: exact, in any order
        ("squares", "<u8", 3),
    ]
)
Records = npt.NDArray[np.void]  # of dtype RECORD, any shape


@dataclass(frozen=True, slots=True)
class Catalog:
    """All accepted images in source order, and all rejected files."""

    spool: Path
    chunks: tuple[str, ...]
    records: Records
    rejected: tuple[Rejected, ...]

    def keys(self) -> list[str]:
        return [key.decode("ascii") for key in self.records["key"].tolist()]

    def provenance(self, row: np.void) -> dict[str, Any]:
        """The provenance of one image. Raises `UserError` when it is damaged."""
        return parse_provenance(self.read(row)[1], self.spool)

    def read(self, row: np.void) -> tuple[bytes, bytes]:
        """Encoded image and provenance of one record. Raises `UserError` when they are damaged."""
        path = images_path(self.spool, self.chunks[row["chunk"]])
        with path.open("rb") as stream:
            stream.seek(int(row["offset"]))
            image = stream.read(int(row["size"]))
            provenance = stream.read(int(row["provenance_size"]))
        if hashlib.sha256(image).digest() != row["image_sha256"].ljust(32, b"\0"):
            raise damaged(self.spool)
        return image, provenance

    def with_provenance(self) -> Iterator[tuple[np.void, dict[str, Any]]]:
        """Every record with its provenance, in source order, one chunk in memory at a time."""
        chunk, blob = None, b""
        for row in self.records:
            if row["chunk"] != chunk:
                chunk = row["chunk"]
                blob = images_path(self.spool, self.chunks[chunk]).read_bytes()
            start = int(row["offset"]) + int(row["size"])
            yield (
                row,
                parse_provenance(blob[start : start + int(row["provenance_size"])], self.spool),
            )

    def fingerprints(self, rows: npt.NDArray[np.int64]) -> Fingerprints:
        """The fingerprints of some records (ascending positions), in a file of the spool."""
        if not len(rows):
            return np.empty(0, FINGERPRINT)
        path = self.spool / "fingerprints"
        # Written, then mapped: on a full disk, writing into a map would kill the process.
        with path.open("wb") as stream:
            for chunk, name in enumerate(self.chunks):
                first, last = np.searchsorted(self.records["chunk"], [chunk, chunk + 1])
                begin, end = np.searchsorted(rows, [first, last])
                inside = rows[begin:end] - first
                if len(inside):
                    stream.write(_load(self.spool, name)[1][inside].tobytes())
        return np.memmap(path, FINGERPRINT, "r")


def save_chunk(
    spool: Path,
    name: str,
    records: Sequence[Records],
    fingerprints: Sequence[Fingerprints],
    rejected: Sequence[Rejected],
) -> None:
    """Write all but NAME.images, NAME.json last. Raises `OSError`."""
    with records_path(spool, name).open("wb") as stream:
        stream.write(npy(np.array(records, RECORD)))
        stream.write(npy(np.array(fingerprints, FINGERPRINT)))
    content = {"rejected": [asdict(file) for file in rejected]}
    partial = done_path(spool, name).with_suffix(".json.partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(done_path(spool, name))  # the chunk counts as done from here on


def load_catalog(spool: Path, chunks: Sequence[str]) -> Catalog:
    """Read all records of `chunks`, in their order. Raises `UserError` when one is damaged."""
    parts = []
    rejected: list[Rejected] = []
    for number, name in enumerate(chunks):
        records, _ = _load(spool, name)
        records["chunk"] = number
        parts.append(records)
        try:
            content = json.loads(done_path(spool, name).read_text(encoding="utf-8"))
            rejected += (Rejected(**file) for file in content["rejected"])
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(spool) from error
    records = np.concatenate([np.empty(0, RECORD), *parts])
    return Catalog(spool, tuple(chunks), records, tuple(rejected))


def images_path(spool: Path, chunk: str) -> Path:
    """The spool file that holds a chunk's encoded images and their provenance."""
    return spool / f"{chunk}.images"


def records_path(spool: Path, chunk: str) -> Path:
    return spool / f"{chunk}.records"


def done_path(spool: Path, chunk: str) -> Path:
    return spool / f"{chunk}.json"


def damaged(spool: Path) -> UserError:
    """The error for a spool that is not what was written."""
    return UserError(f"{spool} has changed or is damaged; delete {spool.parent} and run again")


def parse_provenance(provenance: bytes, spool: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(provenance)
    except ValueError as error:
        raise damaged(spool) from error
    return content


def dump_provenance(content: Mapping[str, Any]) -> bytes:
    """ASCII JSON with sorted keys, as stored in a tar."""
    return json.dumps(content, sort_keys=True).encode("ascii")


def _load(spool: Path, name: str) -> tuple[Records, Fingerprints]:
    try:
        with records_path(spool, name).open("rb") as stream:
            records = np.load(stream, allow_pickle=False)
            fingerprints = np.load(stream, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise damaged(spool) from error
    if records.dtype != RECORD or fingerprints.dtype != FINGERPRINT:
        raise damaged(spool)
    return records, fingerprints
