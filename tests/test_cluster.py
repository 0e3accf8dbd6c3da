"""What docs/cluster.md says is so: its programs, its grid, the codes and fields it explains."""

import re
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from checkout import ROOT

from launch.tasks.grid import build_grid
from micrograph.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR
from pretrain.runs.status import Status

TEXT = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    (lines,) = re.findall(rf"# {heading}\n[^|]*((?:\|.*\n)+)", TEXT)
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()[2:]
    ]


def test_its_programs_are_there() -> None:
    named = set(re.findall(r"python -m ([a-z_.]+)", TEXT)) - {"venv"}
    assert len(named) > 8
    assert all(find_spec(name) for name in named)


def test_its_grid_is_understood(tmp_path: Path) -> None:
    lines = re.findall(r"^    (.*)$", TEXT.split("## Describe\n")[1].split("\n| ")[0], re.MULTILINE)
    path = tmp_path / "grid.yaml"
    axes = "axes: {arch: [resnet50, vgg11, vgg13, senet154], init: [random]}"
    path.write_text("\n".join(["program: pretrain.train", axes, *lines]))
    grid = build_grid(path)
    assert grid.slurm.signal_seconds == 300 and len(grid.after_task) == len(grid.after_all) == 1
    assert [task.resources.nodes for task in grid.tasks] == [1, 1, 1, 2]
    assert grid.tasks[1].settings["lr"] == 0.01


def test_every_field_of_a_status_is_explained() -> None:
    explained = [name for row in table("status.json") for name in re.findall(r"`(\w+)`", row[0])]
    assert explained == [field.name for field in fields(Status)]


def test_the_codes_are_the_programs() -> None:
    codes = {row[0]: row[1] for row in table("Exit codes")}
    assert codes[str(EXIT_INTERRUPTED)] == "trainer"
    assert codes[str(EXIT_USER_ERROR)] == "every program"
