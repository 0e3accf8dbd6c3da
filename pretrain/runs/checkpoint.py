"""The state of a run on disk: written completely or not at all, checked when it is read.

A checkpoint is one file whose name holds the first digits of its SHA-256, so content and checksum
appear in one rename. Two are kept, and in `good/` the newest after a sound validation, for
roll-backs. A damaged one is skipped, and the one before is used.
"""

import hashlib
import io
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch

from micrograph.atomic import write_atomically, writing_to
from micrograph.cli import UserError, warn

SCHEMA_VERSION = 1
KEPT = 2
_GOOD = "good"
_DIGITS = 16  # of the SHA-256 in the name
_NAME = re.compile(rf"state-(\d{{10}})-([0-9a-f]{{{_DIGITS}}})\.pt")

P = TypeVar("P")  # a dataclass: how far a trainer is


def save_checkpoint(folder: Path, progress: Any, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors and plain values) and `progress`, a dataclass of plain values.

    Then drop all but the newest two. Raises `UserError` when the disk is full or not writable; the
    checkpoints before stay untouched.
    """
    buffer = io.BytesIO()
    content = {"schema_version": SCHEMA_VERSION, "progress": asdict(progress), **state}
    torch.save(content, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()[:_DIGITS]
    # Higher than the good one too, which may be the only one left: the highest is the newest.
    known = [*list_checkpoints(folder), *list_checkpoints(folder / _GOOD)]
    number = max(map(_number, known), default=-1) + 1
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"state-{number:010d}-{digest}.pt", buffer.getbuffer())
    _tidy(folder, KEPT)


def mark_good(folder: Path) -> None:
    """Keep the newest checkpoint to roll back to, instead of the previous one.

    Raises `UserError` when the disk is full or not writable; the previous one stays.
    """
    newest, good = list_checkpoints(folder)[-1], folder / _GOOD
    with writing_to(good):
        good.mkdir(exist_ok=True)
        try:
            os.link(newest, good / newest.name)
        except FileExistsError:
            pass
        except OSError:  # not every file system has hard links
            write_atomically(good / newest.name, newest.read_bytes())
    _tidy(good, 1)


def has_good(folder: Path) -> bool:
    """Whether there is a state to roll back to."""
    return bool(list_checkpoints(folder / _GOOD))


def load_good(folder: Path, kind: type[P]) -> tuple[P, dict[str, Any]] | None:
    """Like `load_checkpoint`, for the state that was marked good."""
    return load_checkpoint(folder / _GOOD, kind)


def load_checkpoint(folder: Path, kind: type[P]) -> tuple[P, dict[str, Any]] | None:
    """The newest undamaged checkpoint: progress, a `kind`, and state, its tensors on the CPU.

    None when there is no checkpoint. Raises `UserError` when there are some and none can be used.
    """
    paths = [*list_checkpoints(folder / _GOOD), *list_checkpoints(folder)]
    for path in reversed(paths):
        content = _read(path)
        if content is not None:
            return kind(**content.pop("progress")), content
    if paths:
        raise UserError(
            f"no checkpoint in {folder} can be read; delete the folder to start again, "
            "or train in another --run-dir"
        )
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def _tidy(folder: Path, kept: int) -> None:
    """Drop all but the newest checkpoints, and partial files of killed writes."""
    for old in [*list_checkpoints(folder)[:-kept], *folder.glob("state-*.partial")]:
        old.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # another process of this run has just renamed it
        return None
    match = _NAME.fullmatch(path.name)
    if match is None or hashlib.sha256(data).hexdigest()[:_DIGITS] != match[2]:
        warn(f"checkpoint {path} is damaged; renamed, trying the one before")
        with suppress(FileNotFoundError):
            path.rename(path.with_suffix(".damaged"))  # else it would count as one of those kept
        return None
    content: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    found = content.pop("schema_version", None)
    if found != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema_version {found!r}, this version reads {SCHEMA_VERSION}; "
            "continue with the version that wrote it, or train in another --run-dir"
        )
    return content


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else 0
