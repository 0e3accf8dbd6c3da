"""Checkpoints: complete or not at all, and checked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from micrograph.cli import UserError
from pretrain.runs.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_good,
    mark_good,
    save_checkpoint,
)
from pretrain.training.progress import Progress


def save(folder: Path, epoch: int) -> None:
    save_checkpoint(folder, Progress(epoch=epoch), {"model": {"w": torch.full((3,), float(epoch))}})


def loaded_epoch(folder: Path) -> int:
    found = load_checkpoint(folder, Progress)
    assert found is not None
    return found[0].epoch


def test_a_checkpoint_is_loaded_as_saved(tmp_path: Path) -> None:
    progress = Progress(epoch=3, step=7, best_top1=0.5, loss_sum=1.25, micro_batch_size=8)
    save_checkpoint(tmp_path, progress, {"model": {"w": torch.arange(3)}})
    found = load_checkpoint(tmp_path, Progress)
    assert found is not None
    assert found[0] == progress
    assert found[1]["model"]["w"].tolist() == [0, 1, 2]


def test_two_are_kept_and_a_truncated_one_falls_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for epoch in range(4):
        save(tmp_path, epoch)
    assert len(list_checkpoints(tmp_path)) == 2
    assert loaded_epoch(tmp_path) == 3
    newest = list_checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-5])
    assert loaded_epoch(tmp_path) == 2
    assert "damaged" in capsys.readouterr().err


def test_only_unreadable_checkpoints_are_an_error(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (only,) = list_checkpoints(tmp_path)
    only.write_bytes(b"garbage")
    with pytest.raises(UserError, match="no checkpoint"):
        load_checkpoint(tmp_path, Progress)


def test_a_folder_without_checkpoints_is_not_an_error(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "absent", Progress) is None


def test_another_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.runs.checkpoint.SCHEMA_VERSION", 99)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(UserError, match="schema_version 99"):
        load_checkpoint(tmp_path, Progress)


def test_the_good_checkpoint_is_kept(tmp_path: Path) -> None:
    assert load_good(tmp_path, Progress) is None
    for epoch in range(2):
        save(tmp_path, epoch)
        mark_good(tmp_path)
    for epoch in range(2, 6):
        save(tmp_path, epoch)
    found = load_good(tmp_path, Progress)
    assert found is not None and found[0].epoch == 1
    assert found[1]["model"]["w"].tolist() == [1, 1, 1]
    for path in list_checkpoints(tmp_path):
        path.write_bytes(b"garbage")
    assert loaded_epoch(tmp_path) == 1


def test_leftovers_of_a_killed_write_are_ignored(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "state-0000000001-0123456789abcdef.pt.partial").write_bytes(b"half")
    assert loaded_epoch(tmp_path) == 1


def test_a_new_good_checkpoint_replaces_the_last_one_left(tmp_path: Path) -> None:
    for epoch in range(3):
        save(tmp_path, epoch)
    mark_good(tmp_path)
    for path in list_checkpoints(tmp_path):
        path.unlink()
    save(tmp_path, 3)
    mark_good(tmp_path)
    found = load_good(tmp_path, Progress)
    assert found is not None and found[0].epoch == 3


def test_the_good_checkpoint_is_copied_where_links_fail(
    tmp_path: Path, small_disk: Callable[[int], Any]
) -> None:
    save(tmp_path, 1)
    good = small_disk(100).folder  # another file system
    (tmp_path / "good").symlink_to(good)
    left = good / "state-0000000000-0123456789abcdef.pt.partial"
    left.write_bytes(b"half")  # by a kill in mid-copy
    mark_good(tmp_path)
    found = load_good(tmp_path, Progress)
    assert found is not None and found[0].epoch == 1
    assert [path.name for path in good.iterdir()] == [list_checkpoints(tmp_path)[0].name]
