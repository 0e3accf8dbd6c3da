"""`status.json`: the state of a run, for other programs."""

from pathlib import Path

import pytest

from micrograph.cli import UserError
from pretrain.runs.status import STATUS_NAME, Status, read_status, record_interruption, write_status


def test_a_status_is_read_as_written(tmp_path: Path) -> None:
    status = Status(state="interrupted", reason="asked to stop", epoch=3, best_top1=0.5, updated=9)
    write_status(tmp_path, Status(state="running", updated=1))
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status
    assert [path.name for path in tmp_path.iterdir()] == [STATUS_NAME]


def test_a_run_without_a_status_has_none(tmp_path: Path) -> None:
    assert read_status(tmp_path / "absent") is None


def test_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    (tmp_path / STATUS_NAME).write_text('{"state": "running", "epoch": 2, "mood": "good"}')
    assert read_status(tmp_path) == Status(state="running", epoch=2)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"state": "asleep"}'])
def test_anything_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / STATUS_NAME).write_text(content)
    with pytest.raises(UserError, match=STATUS_NAME):
        read_status(tmp_path)


@pytest.mark.parametrize("epoch", [None, 4])
def test_a_stop_before_the_run_opens_is_an_interruption(tmp_path: Path, epoch: int | None) -> None:
    folder = tmp_path / "run"
    if epoch is not None:
        folder.mkdir()
        write_status(folder, Status(state="running", epoch=epoch))
    with pytest.raises(SystemExit), record_interruption(folder):
        raise SystemExit(75)
    status = read_status(folder)
    assert status is not None
    assert (status.state, status.epoch) == ("interrupted", epoch or 0)


def test_another_exit_before_the_run_opens_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), record_interruption(tmp_path):
        raise SystemExit(2)
    assert read_status(tmp_path) is None
