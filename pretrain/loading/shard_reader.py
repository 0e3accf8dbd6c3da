"""Random access to a shard set: sample id to encoded image, with no reader state."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from micrograph.cli import UserError
from pretrain.loading.sample_order import Ids
from shards.shard_format.schema import (
    Index,
    Manifest,
    file_sha256,
    index_file,
    read_index,
    read_manifest,
)


@dataclass(frozen=True, slots=True)
class ShardReader:
    """One split of a shard set, open for reading. Sample ids are positions in its index."""

    folder: Path
    split: str
    manifest: Manifest
    index: Index
    descriptors: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.index)

    def read(self, ids: Ids) -> list[npt.NDArray[np.uint8]]:
        """The encoded images of `ids`, each a 1-D uint8 array."""
        return [self._read_one(row) for row in self.index[ids]]

    def _read_one(self, row: np.void) -> npt.NDArray[np.uint8]:
        try:
            data = os.pread(self.descriptors[row["shard"]], int(row["size"]), int(row["offset"]))
        except OSError as error:
            raise self._fault(row, f"cannot be read: {error.strerror}") from error
        if len(data) != row["size"]:
            raise self._fault(row, "ends early")
        return np.frombuffer(data, np.uint8)

    def broken(self, sample: int, error: Exception) -> UserError:
        """The error for an image that cannot be decoded."""
        row = self.index[sample]
        return self._fault(row, f"has a damaged image at byte {row['offset']}: {error}")

    def _fault(self, row: np.void, found: str) -> UserError:
        name = self.manifest.splits[self.split].shards[row["shard"]].name
        return UserError(f"{self.folder / name} {found}; see python -m shards.verify {self.folder}")


def open_split(folder: Path, split: str) -> ShardReader:
    """Open a split. Raises `UserError` when shards are missing or have another size."""
    manifest = read_manifest(folder)
    descriptors = []
    for shard in manifest.splits[split].shards:
        path = folder / shard.name
        try:
            descriptors.append(os.open(path, os.O_RDONLY))
        except OSError as error:
            raise UserError(f"cannot open shard {path}: {error.strerror}") from error
        if os.fstat(descriptors[-1]).st_size != shard.bytes:
            raise UserError(
                f"shard {path} is not of the size in the manifest; "
                f"see python -m shards.verify {folder}"
            )
    index = read_index(folder, split)
    if file_sha256(folder / index_file(split)) != manifest.splits[split].index_sha256:
        raise UserError(
            f"{folder / index_file(split)} is not the index that the manifest names; "
            f"see python -m shards.verify {folder}"
        )
    return ShardReader(folder, split, manifest, index, tuple(descriptors))
