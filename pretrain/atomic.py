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
        partial.write_bytes(data)
        name_durably(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def name_durably(partial: Path, path: Path) -> None:
    """Rename a file, beside itself, when all of it is on the disk; then the new name is too."""
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
