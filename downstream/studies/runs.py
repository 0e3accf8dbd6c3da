"""Folders of runs: finding them, naming their initialisations, comparing their settings. No torch.

All readers return a `DataFrame` with a row for each run, finished or not.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pandas as pd

from micrograph.cli import UserError
from micrograph.report_tables import named_rows
from micrograph.settings import as_plain, build_config, read_recipe
from pretrain.runs.run_folder import RunPaths

Config = TypeVar("Config")
Labels = Annotated[tuple[str, ...], "INIT=NAME ...: short names, runs/real/export=micrographs"]


def read_configs(root: Path, config_class: type[Config], program: str) -> dict[Path, Config]:
    """Run folder -> its settings, of `root` itself and the folders in it.

    Raises `UserError` when there is none, and for a config.yaml of another program.
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


def parse_labels(entries: Sequence[str]) -> dict[str, str]:
    """`INIT=NAME` entries as init -> name. Raises `UserError` for anything else."""
    labels = {}
    for entry in entries:
        init, _, name = entry.rpartition("=")
        if not init or not name:
            raise UserError(f"--label takes INIT=NAME, not {entry!r}")
        labels[init] = name
    return labels


def check_labels(labels: Iterable[str], configs: Iterable[Any]) -> None:
    """Raise `UserError` for a label whose init no run has."""
    given = {config.init for config in configs}
    for init in labels:
        if init not in given:
            raise UserError(f"no run has the init {init!r}; there are {', '.join(sorted(given))}")


def init_label(init: str, arch: str, labels: Mapping[str, str]) -> str:
    """A short name: `efficientnet-b4.micronet@2` is "micronet", `runs/real/export` is "real"."""
    if init in labels:
        return labels[init]
    if init in ("random", "imagenet"):
        return init
    parts = [part for part in Path(init).parts if part not in ("export", "encoder.safetensors")]
    name = (parts[-1] if parts else init).split("@")[0].removeprefix(f"{arch}.")
    # A run folder ARCH.random holds an encoder trained from random weights, not random weights.
    return f"trained from {name}" if name in ("random", "imagenet") else name


def mixed_settings(
    runs: pd.DataFrame, by: Callable[[Any], object], varied: frozenset[str]
) -> dict[str, list[str]]:
    """Settings, other than the `varied` ones, in which runs of one group (`by` row) differ."""
    mixed: dict[str, set[str]] = {}
    groups = pd.Series([str(by(run)) for run in named_rows(runs)])
    settings = pd.DataFrame([as_plain(config) for config in runs.config], dtype=object)
    for _, group in settings.drop(columns=list(varied)).map(str).groupby(groups):
        for name in group.columns[group.nunique() > 1]:
            mixed.setdefault(str(name), set()).update(group[name])
    return {name: sorted(values) for name, values in sorted(mixed.items())}


def describe_counts(runs: pd.DataFrame) -> str:
    """How many runs are finished, and how many of these failed."""
    plural = "s" * (len(runs) != 1)
    failed = (runs.failure != "").sum()
    return f"{len(runs)} run{plural}: {runs.finished.sum()} finished, of them {failed} failed"


def describe_problems(runs: pd.DataFrame, mixed: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines of Markdown about mixed settings and failed runs."""
    lines = []
    for name, values in mixed.items():
        listed = ", ".join(values)
        lines += ["", f"**Runs that are averaged differ in {name} ({listed}).**"]
    failed = runs[runs.failure != ""]
    if len(failed):
        lines += ["", *(f"- {run.run} failed: {run.failure}" for run in named_rows(failed))]
    return lines
