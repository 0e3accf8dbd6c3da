"""One split becomes tars: WebDataset members, DALI's index beside each, rows of our own index."""

import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from micrograph.cli import progress
from shards.encoding.spool import Catalog, Records, dump_provenance, parse_provenance
from shards.images.decode import SUFFIXES
from shards.shard_format.config import WriteConfig
from shards.shard_format.schema import INDEX_DTYPE, Index, ShardInfo, file_sha256, idx_file


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
    catalog: Catalog,
    order: npt.NDArray[np.int64],
    groups: Mapping[int, str],
    config: WriteConfig,
) -> tuple[tuple[ShardInfo, ...], Index]:
    """Write the catalog's images at `order`, in that order, as `split-00000.tar` and so on.

    `groups` maps positions to the name of their group, where they have one.
    """
    size = config.shard_samples
    cuts = [order[start : start + size] for start in range(0, len(order), size)]
    names = [f"{split}-{number:05d}.tar" for number in range(len(cuts))]
    suffix = SUFFIXES[config.profile]
    write = partial(_write_tar, folder, catalog=catalog, groups=groups, suffix=suffix)
    # Threads are enough: reading, hashing and writing release the GIL.
    with ThreadPoolExecutor(config.processes) as pool:
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
    positions: npt.NDArray[np.int64],
    *,
    catalog: Catalog,
    groups: Mapping[int, str],
    suffix: str,
) -> tuple[ShardInfo, Index]:
    path = folder / name
    rows = catalog.records[positions]
    with path.open("wb") as stream:
        # The members that webdataset's TarWriter would write, whose import loads torch: 1.3 seconds
        # and 400 MB. TarInfo's defaults (no time, no owner) give plain headers, equal at every run.
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for position, row in zip(positions.tolist(), rows, strict=True):
                key = row["key"].decode("ascii")
                for part, data in _components(catalog, row, groups.get(position), suffix).items():
                    member = tarfile.TarInfo(f"{key}.{part}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        stream.flush()
        os.fsync(stream.fileno())
    members = list_members(path)
    idx = folder / idx_file(name)
    idx.write_text(dali_index(members), encoding="ascii")
    info = ShardInfo(
        name=name,
        samples=len(rows),
        bytes=path.stat().st_size,
        sha256=file_sha256(path),
        idx_sha256=file_sha256(idx),
    )
    return info, _index_rows(members, rows)


def _components(catalog: Catalog, row: np.void, group: str | None, suffix: str) -> dict[str, bytes]:
    """The members of a sample by suffix, in alphabetical order as webdataset has them."""
    image, provenance = catalog.read(row)
    if group is not None:
        content = parse_provenance(provenance, catalog.spool)
        provenance = dump_provenance(content | {"group": group})
    label = str(row["label"]).encode("ascii")
    return dict(sorted({suffix: image, "cls": label, "json": provenance}.items()))


def _index_rows(members: Sequence[TarMember], records: Records) -> Index:
    images = [member for member in members if member.suffix not in ("cls", "json")]
    rows = np.empty(len(records), INDEX_DTYPE)
    rows["offset"] = [image.offset for image in images]
    rows["size"] = [image.size for image in images]
    for column in ("label", "height", "width"):
        rows[column] = records[column]
    return rows
