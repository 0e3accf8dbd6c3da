"""Copy a shard set from a URL to the local cache: checked, resumable, once per machine."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from micrograph.cache import default_cache
from micrograph.cli import UserError, console, progress_bar, warn
from micrograph.download import download, part_of
from micrograph.locks import lock_folder
from micrograph.remote_files import filesystem, is_url
from shards.shard_format.schema import (
    MANIFEST_NAME,
    Manifest,
    file_sha256,
    idx_file,
    index_file,
    read_manifest,
)

MARKS_NAME = "staged.json"  # name -> SHA-256, size and time of each file when it was checked
MB = 1_000_000
_FILES_AT_ONCE = 8  # hides the latency of object stores


def stage(location: str, cache_dir: Path | None = None, *, check: bool = False) -> Path:
    """The local folder of the shard set at `location`, a folder or a URL to copy from.

    Resumes an interrupted copy; replaces files in the cache that differ from the manifest. `check`
    hashes all of them, not only those whose size or time changed. Raises `UserError` when the set
    or the cache is not accessible, the disk is too small, or a file has a wrong SHA-256.
    """
    if not is_url(location):
        return Path(location)
    url = location.rstrip("/")
    if url.startswith("file://"):
        return Path(filesystem(url)[1])
    content, manifest = _fetch_manifest(url)
    folder = (cache_dir or default_cache()) / "shards" / sha256(content).hexdigest()[:16]
    try:
        lock = lock_folder(folder, wait=True)
    except UserError as error:
        raise UserError(f"{error}; name a --cache-dir on a local disk") from error
    with lock:
        files = _files(manifest)
        marks = {} if check else _read_marks(folder)
        missing = [file for file in files if not _is_whole(folder, file, marks)]
        if missing:
            _check_room(folder, missing)
            _fetch_all(url, folder, missing)
        _write_marks(folder, files)
        # Last, as when shards are written: a folder with a manifest is complete.
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
            download(f"{url}/{MANIFEST_NAME}", path)
        except UserError as error:
            raise UserError(
                f"no shards at {url}: {error}; python -m shards.write --out {url} puts some there"
            ) from error
        content = path.read_bytes()
        return content, read_manifest(path.parent)


def _is_whole(folder: Path, file: _File, marks: Mapping[str, Any]) -> bool:
    """Whether the cached file is the manifest's; hashed only if it changed since its last check."""
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
    except (OSError, ValueError):  # none yet, or damaged: hash everything
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
    """Download files in parallel; a failure stops all, and what was downloaded is kept."""
    total, started = sum(file.bytes for file in files), time.monotonic()
    console.print(
        f"staging {url}: {len(files)} files, {total / 1e9:.2f} GB, to {folder}", markup=False
    )
    stop, have = threading.Event(), dict.fromkeys((file.name for file in files), 0)
    with progress_bar() as bar, ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        task = bar.add_task("staging, MB", total=total // MB, note="")

        def advance(name: str, count: int) -> None:
            have[name] = count  # each thread its own key
            bar.update(task, completed=sum(have.values()) // MB)

        jobs = [pool.submit(_fetch_whole, url, folder, file, advance, stop) for file in files]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:  # Ctrl-C too must not wait for gigabytes
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    console.print(f"staged in {time.monotonic() - started:.0f} s", markup=False)


def _fetch_whole(
    url: str, folder: Path, file: _File, advance: Callable[[str, int], None], stop: threading.Event
) -> None:
    def check(part: Path) -> str | None:
        found = file_sha256(part)
        if found == file.sha256:
            return None
        return (
            f"{url}/{file.name} has SHA-256 {found[:12]}…, the manifest says "
            f"{file.sha256[:12]}…: the set is damaged; see python -m shards.verify {url}"
        )

    def report(have: int, total: int | None) -> None:
        if stop.is_set():
            raise UserError("stopped")  # never shown: another error is already raised
        advance(file.name, have)

    download(f"{url}/{file.name}", folder / file.name, check, report)
