"""Every source file is read, decoded, checked and encoded once, by several processes, into a spool.

The work is cut into chunks of a fixed size; a finished chunk is a pair of files whose name is a
hash of its inputs. So the spool does not depend on the number of workers, and a run that was killed
goes on with the chunks that it finds.
"""

import hashlib
import json
import multiprocessing
import os
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from shards.cli import UserError, progress
from shards.images import (
    Pixels,
    Profile,
    RejectedImage,
    decode_image,
    encode_image,
    shrink,
)
from shards.sources import Source, SourceFile, is_image_name

CHUNK_FILES = 32  # a few seconds of work: little to lose, little overhead


@dataclass(frozen=True, kw_only=True, slots=True)
class IntakeOptions:
    """What decides the bytes of an encoded sample."""

    profile: Profile
    max_side: int | None
    grey: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """An encoded image in the spool, and where it comes from."""

    key: str
    label: int
    source: str
    source_sha256: str
    image_sha256: str
    suffix: str
    offset: int
    size: int
    height: int
    width: int
    channels: int
    pixel_sums: tuple[int, ...]  # per channel, exact, so that their order does not matter
    square_sums: tuple[int, ...]
    notes: tuple[str, ...]
    chunk: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A file that stays outside, and why."""

    source: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Intake:
    """The outcome for all source files, in source order."""

    accepted: tuple[Accepted, ...]
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True, slots=True)
class _Chunk:
    root: Path
    spool: Path
    name: str
    classes: tuple[str, ...]
    files: tuple[SourceFile, ...]
    options: IntakeOptions


def take_in(source: Source, spool: Path, options: IntakeOptions, workers: int) -> Intake:
    """Encode all of `source` into `spool`. Raises `UserError` when a file or the disk fails."""
    spool.mkdir(parents=True, exist_ok=True)
    chunks = [
        _Chunk(
            source.root, spool, _fingerprint(files, source, options), source.classes, files, options
        )
        for files in _cut(source.files)
    ]
    todo = [chunk for chunk in chunks if not _records_path(chunk.spool, chunk.name).exists()]
    for _ in progress(_run(todo, workers), "decode and encode", total=len(todo)):
        pass
    accepted: list[Accepted] = []
    rejected: list[Rejected] = []
    for chunk in chunks:
        content = json.loads(_records_path(spool, chunk.name).read_text(encoding="utf-8"))
        accepted += (_accepted(record) for record in content["accepted"])
        rejected += (Rejected(**record) for record in content["rejected"])
    return Intake(tuple(accepted), tuple(rejected))


def images_path(spool: Path, chunk: str) -> Path:
    """The spool file that holds a chunk's encoded images, one after the other."""
    return spool / f"{chunk}.images"


def _records_path(spool: Path, chunk: str) -> Path:
    return spool / f"{chunk}.json"


def _cut(files: Sequence[SourceFile]) -> Iterator[tuple[SourceFile, ...]]:
    for start in range(0, len(files), CHUNK_FILES):
        yield tuple(files[start : start + CHUNK_FILES])


def _fingerprint(files: Sequence[SourceFile], source: Source, options: IntakeOptions) -> str:
    # With the versions of what decodes and encodes: a spool from before an upgrade is not reused.
    versions = [version("micrograph-pretrain"), version("pillow")]
    content = [versions, asdict(options), source.classes, [asdict(file) for file in files]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _run(chunks: Sequence[_Chunk], workers: int) -> Iterator[None]:
    if workers == 1 or len(chunks) <= 1:
        for chunk in chunks:
            _encode_chunk(chunk)
            yield
        return
    context = multiprocessing.get_context("spawn")  # forking a process with threads can deadlock
    with ProcessPoolExecutor(
        min(workers, len(chunks)), mp_context=context, initializer=_die_with_parent
    ) as pool:
        futures = [pool.submit(_encode_chunk, chunk) for chunk in chunks]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except BrokenProcessPool as error:
            raise UserError(
                "a worker was killed, most likely for lack of memory; "
                "the same command goes on from here, with fewer --workers if need be"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _die_with_parent() -> None:
    """End this worker when its parent is killed; else it writes on into the next run's spool."""
    threading.Thread(target=_wait_and_exit, daemon=True).start()


def _wait_and_exit() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode_chunk(chunk: _Chunk) -> None:
    accepted: list[Accepted] = []
    rejected: list[Rejected] = []
    images = images_path(chunk.spool, chunk.name)
    records = _records_path(chunk.spool, chunk.name)
    try:
        with images.open("wb") as stream:
            for file in chunk.files:
                try:
                    sample, data = _encode_file(chunk, file, stream.tell())
                except RejectedImage as reject:
                    rejected.append(
                        Rejected(source=file.path, reason=reject.reason, detail=reject.detail)
                    )
                else:
                    stream.write(data)
                    accepted.append(sample)
            stream.flush()
            os.fsync(stream.fileno())
        content = {
            "accepted": [asdict(sample) for sample in accepted],
            "rejected": [asdict(file) for file in rejected],
        }
        partial = records.with_suffix(".json.partial")
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(records)  # the chunk counts as done from here on
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or images}: {error.strerror or error}"
        ) from error


def _encode_file(chunk: _Chunk, file: SourceFile, offset: int) -> tuple[Accepted, bytes]:
    if not is_image_name(file.path):
        raise RejectedImage("not_an_image", f"suffix {Path(file.path).suffix or 'missing'}")
    path = chunk.root / file.path
    try:
        source_bytes = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    options = chunk.options
    micrograph = decode_image(source_bytes, grey=options.grey)
    pixels = shrink(micrograph.pixels, options.max_side)
    data, suffix = encode_image(pixels, options.profile)
    _check_stored(data)
    pixel_sums, square_sums = _channel_sums(pixels)
    sample = Accepted(
        key=_key(chunk.classes[file.label], file.path),
        label=file.label,
        source=file.path,
        source_sha256=hashlib.sha256(source_bytes).hexdigest(),
        image_sha256=hashlib.sha256(data).hexdigest(),
        suffix=suffix,
        offset=offset,
        size=len(data),
        height=pixels.shape[0],
        width=pixels.shape[1],
        channels=micrograph.channels,
        pixel_sums=pixel_sums,
        square_sums=square_sums,
        notes=micrograph.notes,
        chunk=chunk.name,
    )
    return sample, data


def _check_stored(data: bytes) -> None:
    """Scaling narrows an image and JPEG flattens a faint one: what is stored must pass as well."""
    try:
        decode_image(data)
    except RejectedImage as reject:
        raise RejectedImage(reject.reason, f"as stored: {reject.detail}") from reject


def _key(class_name: str, path: str) -> str:
    """A tar-safe name: the class for people, a hash of the source path to make it unique."""
    readable = re.sub(r"[^0-9a-z]+", "_", class_name.lower()).strip("_")[:40] or "class"
    return f"{readable}_{hashlib.sha256(path.encode('utf-8', 'surrogateescape')).hexdigest()[:20]}"


def _channel_sums(pixels: Pixels) -> tuple[tuple[int, ...], tuple[int, ...]]:
    values = pixels.reshape(-1, 1 if pixels.ndim == 2 else 3).astype(np.uint64)
    return tuple(values.sum(0).tolist()), tuple((values**2).sum(0).tolist())


def _accepted(record: dict[str, Any]) -> Accepted:
    tuples = {key: tuple(record[key]) for key in ("pixel_sums", "square_sums", "notes")}
    return Accepted(**(record | tuples))
