"""Find the faults of a shard set: checksums, counts, index rows, images."""

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from micrograph.cli import UserError, progress
from micrograph.remote_files import filesystem, is_url
from shards.images.decode import RejectedImage, decode_image
from shards.shard_format.schema import (
    OVERLAPS_NAME,
    SAMPLES_NAME,
    SPLITS,
    Index,
    Manifest,
    ShardInfo,
    SplitInfo,
    corpus_hash,
    file_sha256,
    idx_file,
    index_file,
    read_index,
    read_rows,
)
from shards.writing.tar_files import TarMember, dali_index, list_members

Bring = Callable[[str], AbstractContextManager[Any]]


def find_faults(
    folder: Path,
    manifest: Manifest,
    decode: float = 1.0,
    workers: int = 1,
    bring: Bring = nullcontext,
) -> Iterator[str]:
    """Yield one line per fault of the shard set in `folder`.

    `decode` is the fraction of the images to decode, evenly spread; `bring(name)` makes a tar
    available while it is checked (a set in an object store is never all on this disk).
    """
    if manifest.corpus_hash != corpus_hash(manifest.classes, manifest.splits):
        yield "manifest.json: corpus_hash is not the hash of the classes and shards it lists"
    yield from _table_faults(folder, manifest)
    splits = _read_splits(folder)
    if splits is not None and (folder / OVERLAPS_NAME).exists():
        yield from _split_faults(folder, splits)
    for name, split in manifest.splits.items():
        index = None
        try:
            index = read_index(folder, name)
            if file_sha256(folder / index_file(name)) != split.index_sha256:
                yield f"{index_file(name)}: SHA-256 differs from the manifest"
        except (UserError, OSError) as error:
            yield f"{index_file(name)}: {error}"
        yield from _count_faults(name, split, index)
        look = partial(_shard_faults, folder, manifest, name, splits, index, decode, bring)
        with ThreadPoolExecutor(workers) as pool:  # hashing and decoding release the GIL
            looked = pool.map(look, range(len(split.shards)), split.shards)
            for faults in progress(looked, f"verify {name}", total=len(split.shards)):
                yield from faults


def _table_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    for name, sha256_ in manifest.files.items():
        try:
            if file_sha256(folder / name) != sha256_:
                yield f"{name}: SHA-256 differs from the manifest"
        except OSError as error:
            yield f"{name}: cannot be read: {error.strerror}"
    known = {shard.name for split in manifest.splits.values() for shard in split.shards}
    for path in sorted(folder.glob("*.tar")):
        if path.name not in known:
            yield f"{path.name}: is not in the manifest, but readers of *.tar would read it"


def _split_faults(folder: Path, splits: Mapping[str, str]) -> Iterator[str]:
    """Near-duplicates and specimens, as the tables list them, with images in both splits."""
    for row in read_rows(folder / OVERLAPS_NAME):
        ends = row["first"], row["second"]
        if {splits.get(key, "") for key in ends} == set(SPLITS):
            yield f"{OVERLAPS_NAME}: {ends[0]} and {ends[1]} overlap across the split"
    specimens: dict[tuple[str, str], set[str]] = {}
    for row in read_rows(folder / SAMPLES_NAME):
        if row["specimen"] and row["split"] in SPLITS:
            specimens.setdefault((row["source"], row["specimen"]), set()).add(row["split"])
    for (_, specimen), found in specimens.items():
        if len(found) > 1:
            yield f"{SAMPLES_NAME}: specimen {specimen} is in both splits"


def _read_splits(folder: Path) -> dict[str, str] | None:
    """Key -> split as in samples.csv; None where it cannot be read."""
    try:
        return {row["key"]: row["split"] for row in read_rows(folder / SAMPLES_NAME)}
    except UserError:  # `_table_faults` reports it
        return None


def _count_faults(name: str, split: SplitInfo, index: Index | None) -> Iterator[str]:
    if split.samples != sum(shard.samples for shard in split.shards):
        yield f"manifest.json: {name} counts {split.samples} samples, its shards another number"
    if index is None:
        return
    if len(index) != split.samples:
        yield f"{index_file(name)}: {len(index)} rows for {split.samples} samples"
    classes = len(split.class_counts)
    # A damaged label may be any 32-bit number: all invalid ones share the last count.
    counts = np.bincount(np.minimum(index["label"], classes), minlength=classes + 1)
    if tuple(counts.tolist()) != (*split.class_counts, 0):
        yield f"{index_file(name)}: class counts differ from the manifest"


def _shard_faults(
    folder: Path,
    manifest: Manifest,
    split: str,
    splits: Mapping[str, str] | None,
    index: Index | None,
    decode: float,
    bring: Bring,
    number: int,
    shard: ShardInfo,
) -> list[str]:
    rows = None if index is None else index[index["shard"] == number]
    try:
        with bring(shard.name):
            faults = list(_tar_faults(folder, shard, rows, manifest, decode))
            if splits is not None:
                faults += _membership_faults(folder / shard.name, split, splits)
            return faults
    except OSError as error:
        return [f"{shard.name}: cannot be read: {error}"]


def _membership_faults(path: Path, split: str, splits: Mapping[str, str]) -> Iterator[str]:
    """The samples of a tar that samples.csv lists in another split, or not at all."""
    try:
        keys = {member.key for member in list_members(path)}
    except (OSError, tarfile.TarError, ValueError, TypeError):  # `_tar_faults` reports it
        return
    for key in sorted(keys):
        if splits.get(key) != split:
            yield f"{path.name}: sample {key}: {SAMPLES_NAME} has it in {splits.get(key)}"


def _tar_faults(
    folder: Path, shard: ShardInfo, rows: Index | None, manifest: Manifest, decode: float
) -> Iterator[str]:
    path = folder / shard.name
    try:
        if path.stat().st_size != shard.bytes:
            yield f"{shard.name}: {path.stat().st_size} bytes, the manifest says {shard.bytes}"
        if file_sha256(path) != shard.sha256:
            yield f"{shard.name}: SHA-256 differs from the manifest"
        if file_sha256(folder / idx_file(shard.name)) != shard.idx_sha256:
            yield f"{idx_file(shard.name)}: SHA-256 differs from the manifest"
        members = list_members(path)
    except (OSError, tarfile.TarError, ValueError, TypeError) as error:
        yield f"{shard.name}: cannot be read: {error}"
        return
    expected = dali_index(members).encode("utf-8", "surrogateescape")
    if (folder / idx_file(shard.name)).read_bytes() != expected:
        yield f"{idx_file(shard.name)}: does not describe {shard.name}"
    found = len({member.key for member in members})
    if found != shard.samples:
        yield f"{shard.name}: {found} samples, the manifest says {shard.samples}"
    yield from _sample_faults(path, members, rows, manifest, decode)


def _sample_faults(
    path: Path,
    members: Sequence[TarMember],
    rows: Index | None,
    manifest: Manifest,
    decode: float,
) -> Iterator[str]:
    samples: dict[str, dict[str, TarMember]] = {}
    for member in members:
        samples.setdefault(member.key, {})[member.suffix] = member
    if rows is not None and len(rows) != len(samples):
        yield f"{path.name}: {len(samples)} samples, the index has {len(rows)}"
        rows = None
    with path.open("rb") as stream:
        for position, (key, parts) in enumerate(samples.items()):
            row = None if rows is None else rows[position]
            due = int((position + 1) * decode) > int(position * decode)
            for fault in _one_sample(stream.fileno(), parts, row, manifest, decode=due):
                yield f"{path.name}: sample {key}: {fault}"


def _one_sample(
    descriptor: int,
    parts: dict[str, TarMember],
    row: np.void | None,
    manifest: Manifest,
    *,
    decode: bool,
) -> Iterator[str]:
    def read(member: TarMember) -> bytes:
        return os.pread(descriptor, member.size, member.offset)

    images = [suffix for suffix in parts if suffix not in ("cls", "json")]
    if len(images) != 1 or "cls" not in parts or "json" not in parts:
        yield f"has the parts {', '.join(sorted(parts))}; expected one image, cls and json"
        return
    image = parts[images[0]]
    data = read(image)
    try:
        label = int(read(parts["cls"]))
        provenance = json.loads(read(parts["json"]))
    except ValueError as error:
        yield f"label or provenance unreadable: {error}"
        return
    if not 0 <= label < len(manifest.classes) or manifest.classes[label] != provenance.get("class"):
        yield f"label {label} does not fit class {provenance.get('class')!r}"
    if sha256(data).hexdigest() != provenance.get("image_sha256"):
        yield "image bytes differ from their SHA-256"
    height, width = provenance.get("height"), provenance.get("width")
    try:
        if decode:
            height, width = decode_image(data).pixels.shape[:2]
    except RejectedImage as reject:
        yield f"image does not decode: {reject.detail}"
        return
    if row is not None and (
        (row["offset"], row["size"], row["label"]) != (image.offset, image.size, label)
        or (row["height"], row["width"]) != (height, width)
    ):
        yield "the index row does not describe it"


@contextmanager
def local_tables(where: str) -> Iterator[tuple[Path, Bring]]:
    """The set's folder; for a URL, a temporary folder with everything but the tars."""
    if not is_url(where):
        yield Path(where), nullcontext
        return
    fs, root = filesystem(where)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)

        @contextmanager
        def bring(name: str) -> Iterator[None]:
            fetch(name)
            try:
                yield
            finally:
                (folder / name).unlink()

        def fetch(name: str) -> None:
            try:
                fs.get_file(f"{root}/{name}", str(folder / name))
            except Exception as error:  # every file system has its own
                raise OSError(f"{where}/{name}: {error}") from error

        try:
            names = [PurePosixPath(path).name for path in fs.ls(root, detail=False)]
        except Exception as error:
            raise UserError(f"cannot list {where}: {error}") from error
        for name in names:
            if not name.endswith(".tar"):
                fetch(name)
        yield folder, bring
