"""Damage done to shard sets, and what `shards.verify` says of it."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from shards.shard_format.schema import (
    SAMPLE_COLUMNS,
    file_sha256,
    read_index,
    read_manifest,
    read_rows,
    write_index,
)
from shards.verification.faults import find_faults
from shards.writing.tar_files import TarMember, list_members

TAR = "train-00001.tar"


def faults_of(folder: Path) -> list[str]:
    return list(find_faults(folder, read_manifest(folder)))


def members(tar: Path, suffix: str) -> list[TarMember]:
    return [member for member in list_members(tar) if member.suffix == suffix]


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def flip(path: Path, offset: int, mask: int = 1) -> None:
    overwrite(path, offset, bytes([path.read_bytes()[offset] ^ mask]))


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    edit(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def edit_index(folder: Path, split: str, edit: Callable[[Any], None]) -> None:
    index = np.array(read_index(folder, split))
    edit(index)
    write_index(folder, split, index)


def edit_samples(folder: Path, edit: Callable[[list[dict[str, str]]], None]) -> None:
    """Change samples.csv and sign it."""
    path = folder / "samples.csv"
    rows = list(read_rows(path))
    edit(rows)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, SAMPLE_COLUMNS, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)
    edit_manifest(folder, lambda content: content["files"].update({path.name: file_sha256(path)}))
