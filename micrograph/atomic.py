"""Write files atomically: complete and on the disk, or not at all. Imports no torch."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from micrograph.cli import UserError


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn an `OSError` inside the block into a `UserError` that names `folder`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file under a temporary name, sync it and rename it."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
        name_durably(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; nan and infinity, which JSON lacks, become null."""
    write_atomically(path, (json.dumps(_without_nan(content), indent=1) + "\n").encode())


def name_durably(partial: Path, path: Path) -> None:
    """Sync a file, rename it within its folder, and sync the folder."""
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
