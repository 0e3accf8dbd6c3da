"""A manifest of another version or shape ends in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import (
    edit_manifest,
)

from micrograph.cli import UserError
from shards.shard_format.schema import read_manifest


@pytest.mark.parametrize("found", [0, 2, "1", True, None])
def test_other_schema_version_is_refused(folder: Path, found: Any) -> None:
    edit_manifest(folder, lambda content: content.update(schema_version=found))
    with pytest.raises(UserError, match=f"schema_version {found!r}, this version reads 1"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content.pop("mean"),
        lambda content: content.update(surplus=1),
        lambda content: content.update(splits=[]),
        lambda content: content["splits"]["val"].pop("shards"),
        lambda content: content["splits"]["val"]["shards"][0].pop("sha256"),
    ],
    ids=["mean", "surplus", "splits", "shards", "sha256"],
)
def test_manifest_with_other_fields_is_damaged(
    folder: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    edit_manifest(folder, edit)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        read_manifest(folder)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe"])
def test_manifest_that_is_no_json_cannot_be_read(folder: Path, data: bytes) -> None:
    (folder / "manifest.json").write_bytes(data)
    with pytest.raises(UserError, match=r"cannot read .*manifest\.json"):
        read_manifest(folder)
