"""A file that appears under its name whole or not at all. Imports no torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.cli import UserError


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Around writing into `folder`: what the disk refuses becomes a `UserError` that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file that appears under its name only when all of it is on the disk."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name too
    finally:
        os.close(folder)
