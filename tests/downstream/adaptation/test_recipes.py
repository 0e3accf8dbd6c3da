"""The recipes of adaptation and all grids of the project load."""

from pathlib import Path

import pytest
from checkout import ROOT

from downstream.adaptation.config import AdaptConfig
from launch.tasks.grid import load_grid
from micrograph.settings import build_config, read_recipe

RECIPES = sorted((ROOT / "configs" / "downstream" / "adapt").glob("*.yaml"))
GRIDS = sorted((ROOT / "configs" / "launch").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_changes_what_it_names(path: Path) -> None:
    recipe = read_recipe(path)
    config = build_config(AdaptConfig, {"study": "s.yaml", "target": "T1"} | recipe)
    usual = AdaptConfig(study=Path("s.yaml"), target="T1")
    same = {name for name in recipe if getattr(config, name) == getattr(usual, name)}
    assert same <= {"method", "steps"}  # said for the reader


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_grid_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    grid = load_grid(path)
    assert grid.tasks
    if path.stem in ("adapt-cpu", "adapt-paper-b", "label-shift-cpu"):  # once for all targets
        plain = [task.name for task in grid.tasks if "source_only" in task.name]
        first = grid.tasks[0].settings["target"]
        assert plain and all(first in task.split(".") for task in plain)
