"""Read, clean, check and encode every source file once, in several processes, into the spool.

The work is divided into chunks of a fixed size, each named after a hash of its inputs. So the spool
does not depend on the number of workers, and a killed run continues with the chunks it finds.
"""

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np

from micrograph.cli import UserError, progress
from micrograph.remote_files import MAX_FILE_BYTES, cached_store, read_ahead
from shards.duplicates.fingerprint import Fingerprints
from shards.encoding.sample import encode_sample
from shards.encoding.spool import Catalog, Records, done_path, images_path, load_catalog, save_chunk
from shards.images.decode import RejectedImage
from shards.shard_format.config import WriteConfig
from shards.shard_format.schema import Rejected
from shards.sources.listing import Listing, SourceFile, is_image_name

CHUNK_FILES = 32  # a second of work: little to lose, little overhead


@dataclass(frozen=True, slots=True)
class _Chunk:
    spool: Path
    name: str
    classes: tuple[str, ...]
    source_number: int  # position in the listing
    source: str
    files: tuple[SourceFile, ...]
    config: WriteConfig
    fatal: frozenset[str] = frozenset()  # names of files that have killed a process
    alone: bool = False  # no other chunk is being encoded: all memory is this one's


def encode_sources(listing: Listing, spool: Path, config: WriteConfig) -> Catalog:
    """Encode all of `listing` into `spool`. Raises `UserError` when a file or the disk fails."""
    spool.mkdir(parents=True, exist_ok=True)
    chunks = list(_cut(listing, spool, config))
    todo = [chunk for chunk in chunks if not done_path(chunk.spool, chunk.name).exists()]
    for _ in progress(_run(todo, config.processes), "decode and encode", total=len(todo)):
        pass
    catalog = load_catalog(spool, [chunk.name for chunk in chunks])
    # Not stored in the spool: a recipe may have reordered its sources since.
    sources = np.array([chunk.source_number for chunk in chunks], np.uint16)
    catalog.records["source"] = sources[catalog.records["chunk"]]
    return catalog


def _cut(listing: Listing, spool: Path, config: WriteConfig) -> Iterator[_Chunk]:
    for number, source in enumerate(listing.sources):
        for start in range(0, len(source.files), CHUNK_FILES):
            files = source.files[start : start + CHUNK_FILES]
            name = _chunk_name(files, source.spec.name, listing.classes, config)
            yield _Chunk(spool, name, listing.classes, number, source.spec.name, files, config)


def _chunk_name(
    files: Sequence[SourceFile], source: str, classes: Sequence[str], config: WriteConfig
) -> str:
    # With the versions of the decoders and encoders: an older spool is not reused.
    settings = config.sample_settings()
    content = [_versions(), settings, source, classes, [asdict(file) for file in files]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


@lru_cache
def _versions() -> tuple[str, ...]:
    names = ("micrograph-pretrain", "pillow", "simplejpeg", "numpy")
    return tuple(version(name) for name in names)


def _run(chunks: Sequence[_Chunk], workers: int) -> Iterator[None]:
    if workers == 1 or len(chunks) <= 1:
        for chunk in chunks:
            _encode_chunk(replace(chunk, alone=True))
            yield
        return
    # The longest first, so that none is left to one worker at the end.
    chunks = sorted(chunks, key=lambda chunk: -sum(file.entry.size or 0 for file in chunk.files))
    waiting = {chunk.name: chunk for chunk in chunks}
    try:
        with _pool(min(workers, len(chunks))) as pool:
            futures: dict[Future[None], str] = {
                pool.submit(_encode_chunk, chunk): chunk.name for chunk in chunks
            }
            for future in as_completed(futures):
                future.result()
                del waiting[futures[future]]
                yield
    except (BrokenProcessPool, MemoryError):
        for chunk in waiting.values():
            _encode_alone(chunk)
            yield


def _encode_alone(chunk: _Chunk) -> None:
    """Encode alone after a worker was killed; a file that kills it again is rejected.

    A decoder crashed on that file, or it needs more memory than there is.
    """
    if done_path(chunk.spool, chunk.name).exists():
        return
    chunk = replace(chunk, alone=True)
    while True:
        _reading_path(chunk).unlink(missing_ok=True)  # a killed run's would accuse another file
        try:
            with _pool(1) as pool:
                pool.submit(_encode_chunk, chunk).result()
            return
        except BrokenProcessPool as error:
            reading = _reading_path(chunk)
            name = reading.read_text(encoding="utf-8") if reading.exists() else ""
            if not name or name in chunk.fatal:
                raise UserError(
                    "a worker was killed, most likely for lack of memory; run the same command "
                    "again, with fewer --workers if need be: it continues from here"
                ) from error
            chunk = replace(chunk, fatal=chunk.fatal | {name})


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")  # forking a process with threads can deadlock
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_die_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _die_with_parent() -> None:
    """End this worker when its parent is killed; it would write into the next run's spool."""
    threading.Thread(target=_wait_and_exit, daemon=True).start()


def _wait_and_exit() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _reading_path(chunk: _Chunk) -> Path:
    return chunk.spool / f"{chunk.name}.reading"


def _encode_chunk(chunk: _Chunk) -> None:
    records: list[Records] = []
    fingerprints: list[Fingerprints] = []
    rejected: list[Rejected] = []
    images = images_path(chunk.spool, chunk.name)
    reading = _reading_path(chunk)
    try:
        with images.open("wb") as stream, reading.open("w", encoding="utf-8") as mark:
            for file, data in _read_files(chunk):
                mark.seek(0)
                mark.write(ascii(file.name))
                mark.truncate()
                mark.flush()
                try:
                    record, fingerprint, encoded = _encode_or_reject(
                        chunk, file, data, stream.tell()
                    )
                except RejectedImage as reject:
                    rejected.append(
                        Rejected(
                            source=chunk.source,
                            path=file.name,
                            reason=reject.reason,
                            detail=reject.detail,
                        )
                    )
                else:
                    stream.write(encoded)
                    records.append(record)
                    fingerprints.append(fingerprint)
        save_chunk(chunk.spool, chunk.name, records, fingerprints, rejected)
        reading.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or images}: {error.strerror or error}"
        ) from error


def _read_files(chunk: _Chunk) -> Iterator[tuple[SourceFile, bytes | RejectedImage]]:
    """Every file with its bytes, or with the reason why it was not read."""
    for location, run in groupby(chunk.files, key=lambda file: file.location):
        files = list(run)
        refused = {file.name: reject for file in files if (reject := _refusal(chunk, file))}
        wanted = [file.entry for file in files if file.name not in refused]
        content = read_ahead(cached_store(location), wanted)
        for file in files:
            if file.name in refused:
                yield file, refused[file.name]
                continue
            data = next(content)
            if isinstance(data, UserError):
                raise data
            yield file, data


def _refusal(chunk: _Chunk, file: SourceFile) -> RejectedImage | None:
    if not is_image_name(file.name):
        suffix = PurePosixPath(file.name).suffix or "missing"
        return RejectedImage("not_an_image", f"suffix {suffix}")
    if (file.entry.size or 0) > MAX_FILE_BYTES:
        return RejectedImage("too_large", f"{file.entry.size} bytes, at most {MAX_FILE_BYTES}")
    if ascii(file.name) in chunk.fatal:
        return RejectedImage("fatal", "killed the process that read it: damaged, or too large")
    return None


def _encode_or_reject(
    chunk: _Chunk, file: SourceFile, data: bytes | RejectedImage, offset: int
) -> tuple[Records, Fingerprints, bytes]:
    if isinstance(data, RejectedImage):
        raise data
    if len(data) > MAX_FILE_BYTES:
        raise RejectedImage("too_large", f"more than {MAX_FILE_BYTES} bytes")
    try:
        return encode_sample(file, data, chunk.source, chunk.classes, offset, chunk.config)
    except MemoryError as error:
        if not chunk.alone:
            raise  # other workers may hold the memory: tried again alone
        raise RejectedImage("fatal", "needs more memory than there is") from error
