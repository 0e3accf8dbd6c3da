"""The estimate of a grid: each group of similar trainings is timed once."""

from pathlib import Path

import pytest

from launch.estimate import main, timing_groups, total_hours
from launch.tasks.grid import load_grid
from micrograph.cli import UserError

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


def test_tasks_whose_epochs_take_equally_long_are_timed_once(tmp_path: Path) -> None:
    groups = timing_groups(load_grid(write_grid(tmp_path)).tasks)
    assert [group.settings["arch"] for group in groups] == ["resnet18", "mobilenet_v2"]
    assert [group.epochs for group in groups] == [(5, 7), (5, 5)]
    assert total_hours(groups[0], epoch_seconds=600) == 2
    text = "name: s\nprogram: downstream.segment\nroot: {root}\naxes:\n  seed: [0, 1]\n"
    text += "settings: {{data: {root}, init: imagenet}}\n"
    with pytest.raises(UserError, match=r"only pretrain.train can be estimated"):
        timing_groups(load_grid(write_grid(tmp_path, text)).tasks)


def test_a_group_that_cannot_be_timed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = GRID.replace("[resnet18, mobilenet_v2]", "[resnet18]")
    with pytest.raises(SystemExit) as end:
        main([str(write_grid(tmp_path, one))])
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert "?" in out
    assert "resnet18 could not be timed: no shards in" in " ".join(err.split())
