"""Download one file: resumed where an earlier attempt stopped, checked, then renamed.

The bytes go to `NAME.part`. pooch and fsspec restart a broken download. Over HTTP, `NAME.part.json`
records the URL and version (ETag or Last-Modified) of the file; the next attempt asks for the rest
(`Range`) on condition that the version is the same (`If-Range`). A server without ranges, or whose
file has changed, sends the whole. Other URLs are read in ranges through fsspec.
"""

import contextlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import requests

from micrograph.cli import UserError, warn
from micrograph.remote_files import filesystem, unreachable

CHUNK = 1 << 16  # bytes; at most these are lost when the connection breaks
_REMOTE_CHUNK = 8 << 20  # bytes of one request to an object store
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two bytes
WAITS = (1.0, 3.0, 10.0)  # seconds between attempts that bring nothing; then it gives up
LONGEST_WAIT = 120.0  # seconds; a server that asks for more is an error to report
_BUSY = {429, 500, 502, 503, 504}  # may pass by waiting

Report = Callable[[int, int | None], None]  # (bytes on disk, bytes in all where known)
Check = Callable[[Path], str | None]  # what is wrong with a complete file, for the user to read


class _Broken(Exception):
    """A failure that may pass; `wait`: the seconds that the server asks for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def download(
    url: str, target: Path, check: Check | None = None, report: Report | None = None
) -> None:
    """Write the file at `url` to `target`, which exists only once it is complete and checked.

    A file that fails its check is deleted; one that was resumed is downloaded once more. Raises
    `UserError` for a failed check, an unknown address, a silent server or a full disk; the bytes
    downloaded so far are kept for the next call.
    """
    part = part_of(target)
    fetch = _fetch_http if url.startswith(("http://", "https://")) else _fetch_remote
    while True:
        resumed = _size(part) > 0
        fetch(url, part, report or _no_report)
        fault = check(part) if check else None
        if fault is None:
            part.replace(target)
            return
        part.unlink()
        if not resumed:
            raise UserError(fault)
        warn(f"{target.name}: the part of an earlier attempt was damaged; fetching it again")


def part_of(target: Path) -> Path:
    """Where a file is written until it is complete."""
    return target.with_name(target.name + ".part")


def _no_report(have: int, total: int | None) -> None:
    pass


def _fetch_remote(url: str, part: Path, report: Report) -> None:
    """Bring `part` to the full length of a file that fsspec opens."""
    fs, path = filesystem(url)
    have = _size(part)
    try:
        total = int(fs.size(path))
        if have > total:  # of another file
            part.unlink()
            have = 0
    except Exception as error:  # every file system has its own
        raise unreachable(url, error) from error
    with part.open("ab") as stream:
        report(have, total)
        while have < total:
            try:
                block = fs.cat_file(path, start=have, end=min(have + _REMOTE_CHUNK, total))
            except Exception as error:
                raise unreachable(url, error) from error
            if not block:
                raise UserError(f"{url} ended after {have} of {total} bytes; run again to resume")
            _append(stream, block, part)
            have += len(block)
            report(have, total)


def _append(stream: IO[bytes], block: bytes, part: Path) -> None:
    try:
        stream.write(block)
        stream.flush()
    except OSError as error:  # ENOSPC says no file name
        raise UserError(f"cannot write {part}: {error.strerror}") from error


def _fetch_http(url: str, part: Path, report: Report) -> None:
    """Bring `part` to the full length of the file at `url`.

    Gives up after `len(WAITS) + 1` attempts in a row without a byte.
    """
    failures = 0
    with requests.Session() as session:
        while True:
            before = _size(part)
            try:
                _attempt(session, url, part, report)
                _sidecar(part).unlink(missing_ok=True)
                return
            except _Broken as broken:
                failures = failures + 1 if _size(part) <= before else 0
                if failures > len(WAITS) or (broken.wait or 0) > LONGEST_WAIT:
                    raise UserError(_gave_up(url, part, broken)) from broken
                wait = broken.wait or WAITS[max(failures - 1, 0)]
                warn(f"{part.stem}: {broken}; trying again in {wait:.0f} s")
                time.sleep(wait)


def _attempt(session: requests.Session, url: str, part: Path, report: Report) -> None:
    version = _known_version(part, url)
    have = _size(part) if version else 0
    headers = {"Accept-Encoding": "identity"}  # of a compressed body, bytes could not be counted
    if version and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    with _network_errors():
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    with response:
        start, total = _span(response)
        if response.status_code == 416 and have == total:  # stopped after the last byte
            return
        _check_status(response, part)
        if response.status_code == 200:
            have = 0
            _check_room(part, total)
            content = {"url": url, "version": _version(response)}
            _sidecar(part).write_text(json.dumps(content), encoding="utf-8")
        elif start != have or version != _version(response):
            _forget(part)
            raise _Broken("the file has changed on the server")
        _write(response, part, have, total, report)


def _write(
    response: requests.Response, part: Path, have: int, total: int | None, report: Report
) -> None:
    with part.open("ab" if have else "wb") as file:
        report(have, total)
        with _network_errors():
            for chunk in response.iter_content(CHUNK):
                _append(file, chunk, part)
                have += len(chunk)
                report(have, total)
    if total is not None and have < total:
        raise _Broken(f"the connection broke after {have} of {total} bytes")
    if total is not None and have > total:
        _forget(part)
        raise _Broken(f"{have} bytes came where {total} were announced")


def _check_status(response: requests.Response, part: Path) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status == 416:  # the part is longer than the file: not of this version
        _forget(part)
        raise _Broken("the file on the server is shorter than before")
    said = f"{status} {response.reason}".strip()
    if status in _BUSY:
        asked = response.headers.get("Retry-After", "")
        raise _Broken(f"the server says {said}", float(asked) if asked.isdecimal() else None)
    raise UserError(f"cannot fetch {response.url}: the server says {said}")


def _span(response: requests.Response) -> tuple[int, int | None]:
    """Where the body begins in the file, and the bytes of the whole file where they are known."""
    content_range = response.headers.get("Content-Range", "")
    if span := re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", content_range):
        return int(span[1] or 0), None if span[2] == "*" else int(span[2])
    length = response.headers.get("Content-Length", "")
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    return 0, int(length) if length.isdecimal() and not encoded else None


def _version(response: requests.Response) -> str | None:
    """What `If-Range` accepts. A weak ETag promises equal meaning, not equal bytes (RFC 9110)."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _known_version(part: Path, url: str) -> str | None:
    """The version that `part` is the beginning of; None where it cannot be resumed."""
    try:
        known = json.loads(_sidecar(part).read_text(encoding="utf-8"))
        return known["version"] if known["url"] == url else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _check_room(part: Path, needed: int | None) -> None:
    free = shutil.disk_usage(part.parent).free + _size(part)  # the part is about to be replaced
    if needed is not None and needed > free:
        raise UserError(
            f"{part.stem} needs {needed / 1e9:.1f} GB, but {part.parent} has "
            f"{free / 1e9:.1f} GB free; make room or choose another folder"
        )


@contextlib.contextmanager
def _network_errors() -> Iterator[None]:
    try:
        yield
    except requests.exceptions.SSLError as error:
        raise UserError(f"no trusted connection: {_innermost(error)}") from error
    except (requests.exceptions.InvalidURL, requests.exceptions.TooManyRedirects) as error:
        raise UserError(f"cannot fetch: {error}") from error
    except requests.exceptions.RequestException as error:
        raise _Broken(_innermost(error)) from error


def _innermost(error: BaseException) -> str:
    """The system's message: requests wraps it in four layers."""
    text = str(error)
    parts = re.findall(r"\[Errno[^\]]*\] ([^'\")]+)|(timed out|certificate verify failed)", text)
    said = [first or second for first, second in parts]
    return said[-1] if said else text.rsplit(": ", 1)[-1].strip("()'\" ") or type(error).__name__


def _gave_up(url: str, part: Path, broken: _Broken) -> str:
    host = url.split("/")[2]
    kept = f"; {_size(part)} bytes are kept" if _size(part) else ""
    return f"cannot fetch {part.stem} from {host}: {broken}{kept}; run again to resume"


def _sidecar(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _sidecar(part).unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0
