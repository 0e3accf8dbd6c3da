"""Where copies of what lies afar are kept, and how they come: one cache for shards and encoders.

Imports no torch.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from shards.cli import UserError
from shards.download import download
from shards.stores import filesystem

Report = Callable[[int, int | None], None]  # (bytes on disk, bytes in all where known)
_CHUNK = 8 << 20  # bytes of one request to an object store; at most so many are lost in a kill


def default_cache() -> Path:
    """The cache's folder, unless a program's `--cache-dir` says otherwise."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "micrograph-pretrain"


def part_of(path: Path) -> Path:
    """Where a file is written until all of it is there."""
    return path.with_name(path.name + ".part")


def fetch(url: str, part: Path, report: Report) -> None:
    """Bring `part` to the full length of the file at `url`; it may hold a beginning already.

    Raises `UserError` when the file cannot be read, or the disk cannot be written.
    """
    if url.startswith(("http://", "https://")):
        download(url, part, report)
        return
    fs, path = filesystem(url)
    have = part.stat().st_size if part.exists() else 0
    try:
        total = int(fs.size(path))
        if have > total:
            part.unlink()
            have = 0
    except Exception as error:  # every file system has its own
        raise unreachable(url, error) from error
    with part.open("ab") as stream:
        report(have, total)
        while have < total:
            try:
                block = fs.cat_file(path, start=have, end=min(have + _CHUNK, total))
            except Exception as error:
                raise unreachable(url, error) from error
            if not block:
                raise UserError(f"{url} ended after {have} of {total} bytes; run again to go on")
            _write(stream, block, part)
            have += len(block)
            report(have, total)


def unreachable(url: str, error: Exception, verb: str = "read") -> UserError:
    """What to say where a store fails, and what to do where it wants credentials."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    message = f"cannot {verb} {url}: {' '.join(str(said).split())}"
    if isinstance(error, PermissionError) or "redentials" in said:
        message += f"; give credentials that may {verb} it"
        if url.startswith("s3://"):
            message += (
                " (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
                "AWS_ENDPOINT_URL where the store is not Amazon's)"
            )
    return UserError(message)


def _write(stream: IO[Any], block: bytes, part: Path) -> None:
    try:
        stream.write(block)
        stream.flush()
    except OSError as error:  # ENOSPC says no file name
        raise UserError(f"cannot write {part}: {error.strerror}") from error
