"""Shards from afar: a set at any URL is copied once to a local cache, each file by its SHA-256.

python -m pretrain.staging s3://bucket/set        prints the folder; --shards takes that or the URL

A set's folder in the cache is named after its manifest, so a set that changes at its URL is another
set here. One process copies, under a lock; the others of its node, or of other jobs, wait for it.
Imports no torch: a login node stages for compute nodes without a network.
"""

import fcntl
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as SpeedColumn

from pretrain.cache import default_cache, fetch, part_of
from shards.cli import UserError, console, program, warn
from shards.schema import MANIFEST_NAME, Manifest, file_sha256, idx_file, index_file, read_manifest
from shards.settings import Positional, load_config
from shards.stores import filesystem, is_url

MARKS_NAME = "staged.json"  # name -> size and time of each file when its SHA-256 was right
_FILES_AT_ONCE = 8  # hides the latency of object stores


@dataclass(frozen=True, kw_only=True)
class StagingConfig:
    """Copy a shard set from a URL to the local cache."""

    url: Annotated[str, Positional, "of the set: s3://…, https://…, or another that fsspec opens"]
    cache_dir: Annotated[Path | None, "[~/.cache/micrograph-pretrain]"] = None
    check: Annotated[bool, "hash every file that is there, not only those that changed"] = False


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(StagingConfig, argv)
    print(stage(config.url, config.cache_dir, check=config.check))


def stage(location: str, cache_dir: Path | None = None, *, check: bool = False) -> Path:
    """The local folder of the shard set at `location`, a folder already or a URL to copy from.

    Goes on where an earlier copy broke off; a file in the cache that is not as the manifest says is
    fetched again. `check` hashes what is there, too. Raises `UserError` when the set or the cache
    cannot be reached, room is short, or a file arrives twice with another SHA-256.
    """
    if not is_url(location):
        return Path(location)
    url = location.rstrip("/")
    if url.startswith("file://"):
        return Path(filesystem(url)[1])
    content, manifest = _fetch_manifest(url)
    folder = (cache_dir or default_cache()) / "shards" / sha256(content).hexdigest()[:16]
    with _locked(folder):
        files = _files(manifest)
        marks = {} if check else _read_marks(folder)
        missing = [file for file in files if not _is_whole(folder, file, marks)]
        if missing:
            _check_room(folder, missing)
            _fetch_all(url, folder, missing)
        _write_marks(folder, files)
        # Last, as when shards are written: where it is, the set is complete.
        _replace(folder / MANIFEST_NAME, content)
    return folder


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    sha256: str
    bytes: int = 0  # 0 where the manifest does not say: the small files


def _files(manifest: Manifest) -> list[_File]:
    tables = [_File(name, digest) for name, digest in manifest.files.items()]
    for split, info in manifest.splits.items():
        tables.append(_File(index_file(split), info.index_sha256))
        for shard in info.shards:
            tables.append(_File(idx_file(shard.name), shard.idx_sha256))
            tables.append(_File(shard.name, shard.sha256, shard.bytes))
    return sorted(tables, key=lambda file: file.bytes)  # small ones first: faults show early


def _fetch_manifest(url: str) -> tuple[bytes, Manifest]:
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / MANIFEST_NAME
        try:
            fetch(f"{url}/{MANIFEST_NAME}", path, lambda have, total: None)
        except UserError as error:
            raise UserError(
                f"no shards at {url}: {error}; python -m shards.write --out {url} puts some there"
            ) from error
        content = path.read_bytes()
        return content, read_manifest(path.parent)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the set's folder; the lock goes with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"cannot use the cache {folder}: {error.strerror}; choose another --cache-dir"
        ) from error
    with stream:
        try:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                console.print(f"waiting for the process that fills {folder} …", markup=False)
                fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:  # some cluster file systems know no locks
            raise UserError(
                f"cannot lock {folder}: {error.strerror}; choose a --cache-dir on a local disk"
            ) from error
        yield


def _is_whole(folder: Path, file: _File, marks: Mapping[str, Any]) -> bool:
    """Whether the cached file is the manifest's; hashed only when no mark vouches for it."""
    path = folder / file.name
    if not path.is_file():
        return False
    if marks.get(file.name) == [file.sha256, *_stamp(path)]:
        return True
    if file_sha256(path) == file.sha256:
        return True
    warn(f"{path} is damaged; fetching it again")
    return False


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _read_marks(folder: Path) -> dict[str, Any]:
    try:
        marks = json.loads((folder / MARKS_NAME).read_text(encoding="ascii"))
    except (OSError, ValueError):  # none yet, or damaged: then everything is hashed
        return {}
    return marks if isinstance(marks, dict) else {}


def _write_marks(folder: Path, files: Sequence[_File]) -> None:
    marks = {file.name: [file.sha256, *_stamp(folder / file.name)] for file in files}
    if marks != _read_marks(folder):
        _replace(folder / MARKS_NAME, json.dumps(marks, sort_keys=True).encode())


def _replace(path: Path, content: bytes) -> None:
    if path.exists() and path.read_bytes() == content:
        return
    part = part_of(path)
    part.write_bytes(content)
    part.replace(path)


def _check_room(folder: Path, files: Sequence[_File]) -> None:
    parts = [part_of(folder / file.name) for file in files]
    have = sum(part.stat().st_size for part in parts if part.exists())
    needed = sum(file.bytes for file in files) - have
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the shards need {needed / 1e9:.2f} GB more, but {folder} has {free / 1e9:.2f} GB "
            "free; make room or choose another --cache-dir"
        )


def _fetch_all(url: str, folder: Path, files: Sequence[_File]) -> None:
    """Fetch files side by side; after a failure, none goes on and what has come is kept."""
    stop = threading.Event()
    with _byte_bar(url, folder, files) as advance, ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        jobs = [pool.submit(_fetch_whole, url, folder, file, advance, stop) for file in files]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:  # an interruption from the keyboard, too, must not wait for gigabytes
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _fetch_whole(
    url: str, folder: Path, file: _File, advance: Callable[[str, int], None], stop: threading.Event
) -> None:
    target = folder / file.name
    part = part_of(target)

    def report(have: int, total: int | None) -> None:
        if stop.is_set():
            raise UserError("stopped")  # seen by nobody: another error stands already
        advance(file.name, have)

    # What a killed copy left may be damaged, or of a set that has been replaced: twice at most.
    for left in (1, 0):
        fetch(f"{url}/{file.name}", part, report)
        found = file_sha256(part)
        if found == file.sha256:
            part.replace(target)
            return
        part.unlink()
        if left:
            warn(f"{file.name} came with another SHA-256 than the manifest's; fetching it again")
    raise UserError(
        f"{url}/{file.name} has SHA-256 {found[:12]}…, the manifest says {file.sha256[:12]}…: the "
        f"set is damaged; see python -m shards.verify {url}"
    )


@contextmanager
def _byte_bar(
    url: str, folder: Path, files: Sequence[_File]
) -> Iterator[Callable[[str, int], None]]:
    """Bytes, speed and time left; where stderr is no terminal, a line at the start and the end."""
    total = sum(file.bytes for file in files)
    have: dict[str, int] = {}
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        SpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    console.print(
        f"staging {url}: {len(files)} files, {total / 1e9:.2f} GB, to {folder}", markup=False
    )
    started = time.monotonic()
    with bar:
        task = bar.add_task("staging", total=total)

        def advance(name: str, count: int) -> None:
            have[name] = count  # each thread its own key
            bar.update(task, completed=sum(list(have.values())))

        yield advance
    console.print(f"staged in {time.monotonic() - started:.0f} s", markup=False)


if __name__ == "__main__":
    main()
