"""Read the files of a folder, a zip or tar archive, or any URL that fsspec opens.

Archives are read in place. A store lists its files once; any process then reads them by entry.
"""

import os
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast
from zlib import error as ZlibError

from micrograph.cli import UserError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# No micrograph is larger: 20,000 x 20,000 pixels of 32 bits take 1.6 GB.
MAX_FILE_BYTES = 2 * 1024**3
_REMOTE_READS = 8  # at a time: hides the latency of object stores


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a store. `stamp` changes when its content may have: time, ETag or checksum."""

    path: str  # with `/`, relative to the store
    size: int | None  # bytes; None where only reading tells
    stamp: str
    offset: int = 0  # in the (decompressed) stream of a tar


class Store(Protocol):
    """Files by name. `read` raises `UserError` when a file is gone or changed since it was listed.

    Without a date or ETag from its server, a change is seen by the size at most.
    """

    def entries(self) -> list[Entry]: ...

    def read(self, entry: Entry) -> bytes: ...


def open_store(location: str) -> Store:
    """The store at a path or URL; an archive is recognised by its suffix. Lists nothing yet."""
    if is_archive(location):
        return _ZipStore(location) if location.lower().endswith(".zip") else _TarStore(location)
    return _RemoteStore(location) if is_url(location) else _FolderStore(Path(location))


@lru_cache(maxsize=8)
def cached_store(location: str) -> Store:
    """As `open_store`, once per process: workers keep archives and connections open."""
    return open_store(location)


def read_ahead(store: Store, entries: Sequence[Entry]) -> Iterator[bytes | UserError]:
    """Read `entries` in order, a few ahead of the consumer where the store is remote.

    An error is yielded in place of its file's bytes, so that the consumer decides when to raise it.
    """
    if not isinstance(store, _RemoteStore):
        yield from (_read_or_error(store, entry) for entry in entries)
        return
    with ThreadPoolExecutor(_REMOTE_READS) as pool:
        waiting = iter(entries)
        running = [pool.submit(_read_or_error, store, e) for e in islice(waiting, _REMOTE_READS)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(_read_or_error, store, e) for e in islice(waiting, 1)]


def is_archive(location: str) -> bool:
    """Whether the name has the suffix of an archive that is read in place."""
    return location.lower().endswith(ARCHIVE_SUFFIXES)


def is_url(location: str) -> bool:
    """Whether it is a URL for fsspec (`s3://…`, `https://…`, `memory://…`), not a local path."""
    return re.match(r"[a-z][a-z0-9+.-]+://", location) is not None


def open_location(location: str) -> IO[bytes]:
    """Open a local file or a URL for reading, seekable. Raises `UserError`."""
    try:
        if not is_url(location):
            return Path(location).open("rb")
        stream: IO[bytes] = filesystem(location)[0].open(location, "rb")
        return stream
    except Exception as error:  # every file system has its own
        raise UserError(f"cannot read {location}: {_reason(error)}") from error


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system and path of a URL. Raises `UserError` when a package is missing."""
    import fsspec  # not needed for local corpora

    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f"cannot open {url}: {error}") from error
    except ValueError as error:
        raise UserError(
            f"cannot open {url}: {error}; a folder, s3://bucket/path or https://… would be right"
        ) from error
    return fs, path


def unreachable(url: str, error: Exception, verb: str = "read") -> UserError:
    """The error of a store, with the remedy where it wants credentials."""
    said = _reason(error)
    message = f"cannot {verb} {url}: {' '.join(said.split())}"
    if isinstance(error, PermissionError) or "redentials" in said:
        message += f"; give credentials that may {verb} it"
        if url.startswith("s3://"):
            message += (
                " (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
                "AWS_ENDPOINT_URL where the store is not Amazon's)"
            )
    return UserError(message)


def _read_or_error(store: Store, entry: Entry) -> bytes | UserError:
    try:
        return store.read(entry)
    except UserError as error:
        return error


class _FolderStore:
    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self) -> list[Entry]:
        found = []
        seen: set[str] = set()  # links are followed, but not in circles
        for base, folders, names in os.walk(self.root, onerror=_unreadable, followlinks=True):
            inside = [name for name in folders if _visible(name)]
            real = {name: os.path.realpath(Path(base, name)) for name in inside}
            folders[:] = [name for name in inside if real[name] not in seen]
            seen |= {real[name] for name in folders}
            for name in filter(_visible, names):
                path = Path(base, name)
                found.append(_local_entry(path, path.relative_to(self.root).as_posix()))
        return found

    def read(self, entry: Entry) -> bytes:
        path = self.root / entry.path
        data = _read_local(path)
        now = _local_entry(path, entry.path)
        if (now.size, now.stamp) != (entry.size, entry.stamp) or len(data) != entry.size:
            raise UserError(
                f"{path} changed while it was read ({entry.size} bytes when listed, {now.size} "
                "now); wait until nothing writes there and run the same command again: it resumes"
            )
        return data


def _read_local(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _local_entry(path: Path, name: str) -> Entry:
    try:
        stat = path.stat()
    except OSError as error:  # a link that leads nowhere, say
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return Entry(name, stat.st_size, str(stat.st_mtime_ns))


def _unreadable(error: OSError) -> None:
    raise UserError(f"cannot read folder {error.filename}: {error.strerror}") from error


def _visible(name: str) -> bool:
    return not name.startswith(".")


def _visible_path(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return all(_visible(part) for part in parts) and "__MACOSX" not in parts


class _RemoteStore:
    """A folder behind fsspec; read by several threads at a time, which fsspec allows."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, self._root = filesystem(self.url)

    def entries(self) -> list[Entry]:
        try:
            found = self._fs.find(self._root, detail=True)
        except Exception as error:  # every file system has its own
            raise UserError(f"cannot list {self.url}: {_reason(error)}") from error
        prefix = self._root.rstrip("/") + "/"
        entries = [_remote_entry(name.removeprefix(prefix), info) for name, info in found.items()]
        return [entry for entry in entries if _visible_path(entry.path)]

    def read(self, entry: Entry) -> bytes:
        name = f"{self._root.rstrip('/')}/{entry.path}"
        try:
            data: bytes = self._fs.cat_file(name)
            now = _remote_entry(entry.path, self._fs.info(name)) if entry.stamp else entry
        except Exception as error:
            raise UserError(f"cannot read {self.url}/{entry.path}: {_reason(error)}") from error
        if now.stamp != entry.stamp or (entry.size is not None and len(data) != entry.size):
            raise UserError(
                f"{self.url}/{entry.path} changed since it was listed ({entry.size} bytes then, "
                f"{len(data)} now); run the same command again: it resumes"
            )
        return data


def _remote_entry(path: str, info: dict[str, Any]) -> Entry:
    stamps = (info.get(key) for key in ("ETag", "etag", "LastModified", "mtime"))
    return Entry(path, info.get("size"), str(next((s for s in stamps if s is not None), "")))


class _ZipStore:
    def __init__(self, location: str) -> None:
        self.location = location
        self._lock = threading.Lock()
        self._stream = open_location(location)
        try:
            self._zip = zipfile.ZipFile(self._stream)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"cannot read {location}: {_reason(error)}") from error

    def __del__(self) -> None:  # stores live as long as their process needs them
        if hasattr(self, "_stream"):
            self._stream.close()

    def entries(self) -> list[Entry]:
        return [
            Entry(info.filename, info.file_size, f"{info.CRC:08x}")
            for info in self._zip.infolist()
            if not info.is_dir() and _visible_path(info.filename)
        ]

    def read(self, entry: Entry) -> bytes:
        with self._lock:
            try:  # the checksum of the member is checked when its last byte is read
                with self._zip.open(entry.path) as stream:
                    return stream.read(MAX_FILE_BYTES + 1)
            except Exception as error:  # zipfile raises half a dozen kinds on damaged members
                raise UserError(
                    f"cannot read {entry.path} of {self.location}: {_reason(error)}; "
                    "the archive is damaged or changed: fetch it again"
                ) from error


_TAR_ERRORS = (tarfile.TarError, OSError, EOFError, ZlibError, LZMAError)


class _TarStore:
    """A tar, compressed or not. Compressed ones are read forwards: entries come in that order."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._lock = threading.Lock()
        self._open = ExitStack()  # stores live as long as their process needs them
        self._stream: IO[bytes] | None = None  # decompressed

    def __del__(self) -> None:
        self._open.close()

    def entries(self) -> list[Entry]:
        stamp = self._stamp()
        try:
            with open_location(self.location) as raw, tarfile.open(fileobj=raw) as tar:
                members = [info for info in tar if info.isreg()]
                stream = cast(IO[bytes], tar.fileobj)
                stream.seek(tar.offset)
                if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("it has no end, and is probably cut off")
        except _TAR_ERRORS as error:
            raise UserError(f"cannot read {self.location}: {_reason(error)}") from error
        names = [info.name.removeprefix("./") for info in members]
        return [
            Entry(name, info.size, stamp, info.offset_data)
            for name, info in zip(names, members, strict=True)
            if _visible_path(name)
        ]

    def read(self, entry: Entry) -> bytes:
        with self._lock:
            try:
                if self._stream is None:
                    raw = self._open.enter_context(open_location(self.location))
                    tar = self._open.enter_context(tarfile.open(fileobj=raw))  # noqa: SIM115
                    self._stream = cast(IO[bytes], tar.fileobj)
                self._stream.seek(entry.offset)
                data = self._stream.read(entry.size or 0)
            except _TAR_ERRORS as error:
                raise UserError(f"cannot read {self.location}: {_reason(error)}") from error
        if len(data) != entry.size or self._stamp() != entry.stamp:
            raise UserError(
                f"{self.location} is cut off in {entry.path}, or changed while it was read; "
                "run the same command again once it is whole"
            )
        return data

    def _stamp(self) -> str:
        """Size and time of a local tar, which has no checksums: it must stay as listed."""
        if is_url(self.location):
            return ""
        entry = _local_entry(Path(self.location), "")
        return f"{entry.size}:{entry.stamp}"


def natural_key(path: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts `img2` before `img10`; the plain name decides between `img2` and `img02`."""
    parts = re.split(r"(\d+)", path)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
