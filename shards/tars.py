"""One split becomes tars: WebDataset members, DALI's index beside each, rows of our own index."""

import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from shards.cli import UserError, progress
from shards.intake import Accepted, images_path
from shards.schema import INDEX_DTYPE, Index, ShardInfo, file_sha256, idx_file


@dataclass(frozen=True, slots=True)
class TarMember:
    """A component of a sample inside a tar: `KEY.suffix`, its bytes from `offset` on."""

    key: str
    suffix: str
    offset: int
    size: int
    name: str


def write_split(
    folder: Path,
    split: str,
    samples: Sequence[Accepted],
    spool: Path,
    classes: Sequence[str],
    *,
    shard_samples: int,
    workers: int,
) -> tuple[tuple[ShardInfo, ...], Index]:
    """Write `samples`, in their order, as `split-00000.tar` and so on, and index them."""
    cuts = [samples[i : i + shard_samples] for i in range(0, len(samples), shard_samples)]
    names = [f"{split}-{number:05d}.tar" for number in range(len(cuts))]
    write = partial(_write_tar, folder, spool=spool, classes=classes)
    # Threads are enough: the work is reading, hashing and writing, and hashing frees the lock.
    with ThreadPoolExecutor(workers) as pool:
        written = progress(pool.map(write, names, cuts), f"write {split}", total=len(cuts))
        shards, parts = zip(*written, strict=True) if cuts else ((), ())
    index = np.concatenate(parts) if parts else np.empty(0, INDEX_DTYPE)
    index["shard"] = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return tuple(shards), index


def list_members(tar: Path) -> list[TarMember]:
    """The members of a tar in order. Raises `tarfile.TarError` or `OSError` on a damaged one."""
    with tarfile.open(tar, "r:") as archive:
        return [_member(info) for info in archive]


def _member(info: tarfile.TarInfo) -> TarMember:
    key, suffix = info.name.split(".", 1)
    return TarMember(key, suffix, info.offset_data, info.size, info.name)


def dali_index(members: Sequence[TarMember]) -> str:
    """The text that DALI's `wds2idx` would write for a tar with these members (format v1.2)."""
    samples: dict[str, list[TarMember]] = {}
    for member in members:
        samples.setdefault(member.key, []).append(member)
    lines = [f"v1.2 {len(samples)}"]
    for components in samples.values():
        lines.append(" ".join(f"{m.suffix} {m.offset} {m.size} {m.name}" for m in components))
    return "\n".join(lines) + "\n"


def _write_tar(
    folder: Path,
    name: str,
    samples: Sequence[Accepted],
    *,
    spool: Path,
    classes: Sequence[str],
) -> tuple[ShardInfo, Index]:
    from webdataset import TarWriter  # loads torch where that is installed: seconds, not always

    path = folder / name
    with path.open("wb") as stream:
        # mtime=0: plain headers and equal bytes at every run; encoder=False: we hand over bytes.
        with TarWriter(stream, mtime=0, encoder=False) as tar:
            for sample in samples:
                tar.write(_components(sample, spool, classes))
        stream.flush()
        os.fsync(stream.fileno())
    members = list_members(path)
    idx = folder / idx_file(name)
    idx.write_text(dali_index(members), encoding="ascii")
    info = ShardInfo(
        name=name,
        samples=len(samples),
        bytes=path.stat().st_size,
        sha256=file_sha256(path),
        idx_sha256=file_sha256(idx),
    )
    return info, _index_rows(members, samples)


def _components(sample: Accepted, spool: Path, classes: Sequence[str]) -> dict[str, str | bytes]:
    with images_path(spool, sample.chunk).open("rb") as stream:
        stream.seek(sample.offset)
        image = stream.read(sample.size)
    if hashlib.sha256(image).hexdigest() != sample.image_sha256:
        raise UserError(f"{stream.name} has changed; delete {spool.parent} and run again")
    provenance = {
        "class": classes[sample.label],
        "source": sample.source,
        "source_sha256": sample.source_sha256,
        "image_sha256": sample.image_sha256,
        "height": sample.height,
        "width": sample.width,
        "notes": list(sample.notes),
    }
    return {
        "__key__": sample.key,
        sample.suffix: image,
        "cls": str(sample.label).encode("ascii"),
        "json": json.dumps(provenance, sort_keys=True).encode("ascii"),
    }


def _index_rows(members: Sequence[TarMember], samples: Sequence[Accepted]) -> Index:
    images = {member.key: member for member in members if member.suffix not in ("cls", "json")}
    rows = np.empty(len(samples), INDEX_DTYPE)
    for row, sample in zip(rows, samples, strict=True):
        image = images[sample.key]
        row["offset"], row["size"] = image.offset, image.size
        row["label"], row["height"], row["width"] = sample.label, sample.height, sample.width
    return rows
