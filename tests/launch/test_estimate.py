"""What a grid will cost: each kind of training timed once, and added up."""

from pathlib import Path

import pytest

from launch.estimate import find_kinds, hours, main
from launch.grid import load_grid
from shards.cli import UserError

GRID = """
name: cost
program: pretrain.train
root: {root}
settings: {{epochs: 5, device: cpu, shards: {root}/none}}
axes:
  arch: [resnet18, mobilenet_v2]
  seed: [0, 1]
overrides: [{{match: {{arch: resnet18, seed: 1}}, settings: {{epochs: 7}}}}]
"""


def write_grid(folder: Path, text: str = GRID) -> Path:
    path = folder / "grid.yaml"
    path.write_text(text.format(root=folder))
    return path


def test_tasks_that_differ_in_what_costs_no_time_are_timed_once(tmp_path: Path) -> None:
    kinds = find_kinds(load_grid(write_grid(tmp_path)).tasks)
    assert [kind.settings["arch"] for kind in kinds] == ["resnet18", "mobilenet_v2"]
    assert [kind.epochs for kind in kinds] == [(5, 7), (5, 5)]
    assert hours(kinds[0], epoch_seconds=600) == 2


def test_other_programs_are_refused(tmp_path: Path) -> None:
    text = "name: s\nprogram: downstream.segment\nroot: {root}\naxes:\n  seed: [0, 1]\n"
    text += "settings: {{data: {root}, init: imagenet}}\n"
    with pytest.raises(UserError, match=r"only pretrain.train can be estimated"):
        find_kinds(load_grid(write_grid(tmp_path, text)).tasks)


def test_what_cannot_be_timed_is_named_and_ends_with_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = GRID.replace("[resnet18, mobilenet_v2]", "[resnet18]")
    with pytest.raises(SystemExit) as end:
        main([str(write_grid(tmp_path, one))])
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert "?" in out
    assert "resnet18 could not be timed: no shards in" in " ".join(err.split())
