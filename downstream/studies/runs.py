"""Find run folders, name their initialisations, compare their settings. No torch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from micrograph.cli import UserError
from micrograph.report_tables import named_rows
from micrograph.settings import as_plain, build_config, read_recipe
from pretrain.runs.run_folder import RunPaths

Config = TypeVar("Config")


def read_configs(root: Path, config_class: type[Config], program: str) -> dict[Path, Config]:
    """Run folder -> its settings; searches `root` and the folders in it.

    Raises `UserError` if there is none, and for a config.yaml of another program.
    """
    if not root.is_dir():
        raise UserError(f"no such folder: {root}; give the one that holds the run folders")
    configs = {}
    for folder in (root, *sorted(root.iterdir())):
        path = RunPaths(folder).config
        if path.is_file():
            try:
                configs[folder] = build_config(config_class, read_recipe(path))
            except UserError as error:
                raise UserError(f"{path} is not of a {program} run: {error}") from error
    if not configs:
        raise UserError(f"{root} holds no {program} run (a folder with a config.yaml)")
    return configs


def init_label(init: str, arch: str) -> str:
    """A short name: `efficientnet-b4.micronet@2` is "micronet", `runs/real/export` is "real"."""
    if init in ("random", "imagenet"):
        return init
    parts = [part for part in Path(init).parts if part not in ("export", "encoder.safetensors")]
    name = (parts[-1] if parts else init).split("@")[0].removeprefix(f"{arch}.")
    # A run folder ARCH.random holds an encoder trained from random weights, not random weights.
    return f"trained from {name}" if name in ("random", "imagenet") else name


def mixed_settings(
    runs: pd.DataFrame, by: Callable[[Any], object], varied: frozenset[str]
) -> dict[str, list[str]]:
    """Settings that differ within a group of runs (`by` row), except the `varied` ones."""
    mixed: dict[str, set[str]] = {}
    groups = pd.Series([str(by(run)) for run in named_rows(runs)])
    settings = pd.DataFrame([as_plain(config) for config in runs.config], dtype=object)
    for _, group in settings.drop(columns=list(varied)).map(str).groupby(groups):
        for name in group.columns[group.nunique() > 1]:
            mixed.setdefault(str(name), set()).update(group[name])
    return {name: sorted(values) for name, values in sorted(mixed.items())}


def describe_counts(runs: pd.DataFrame) -> str:
    """Count runs, finished and failed ones."""
    plural = "s" * (len(runs) != 1)
    failed = (runs.failure != "").sum()
    return f"{len(runs)} run{plural}: {runs.finished.sum()} finished, of them {failed} failed"


def describe_problems(runs: pd.DataFrame, mixed: Mapping[str, Sequence[str]]) -> list[str]:
    """Report mixed settings and failed runs, in Markdown."""
    lines = []
    for name, values in mixed.items():
        listed = ", ".join(values)
        lines += ["", f"**Runs that are averaged differ in {name} ({listed}).**"]
    failed = runs[runs.failure != ""]
    if len(failed):
        lines += ["", *(f"- {run.run} failed: {run.failure}" for run in named_rows(failed))]
    return lines
