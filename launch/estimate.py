"""Estimates the hours that a grid takes, from one short timing for each group of similar tasks.

python -m launch.estimate GRID        on a machine like those that will train: it runs the doctor
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table

from launch.tasks.grid import load_grid
from launch.tasks.programs import command_flags
from launch.tasks.task_list import Task
from micrograph.cli import UserError, program, progress, warn
from micrograph.settings import Positional, build_config, load_config, to_json
from pretrain.config import TrainConfig

_TRAIN = "pretrain.train"
# Settings that do not change the time of an epoch.
_NO_TIME = frozenset(
    {
        *("run_dir", "init", "seed", "epochs", "patience", "lr", "lr_schedule"),
        *("lr_reference_batch_size", "lr_decay", "lr_decay_epochs", "warmup_epochs", "momentum"),
        *("weight_decay", "label_smoothing", "wandb", "wandb_project"),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimateConfig:
    """Estimate how many hours a grid of trainings takes."""

    grid: Annotated[Path, Positional, "YAML file of the grid, or a frozen tasks.json"]
    json: Annotated[bool, "print the seconds of each group of tasks, as a JSON list"] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TimingGroup:
    """Tasks whose epochs take equally long."""

    settings: dict[str, Any]  # of the first task
    epochs: tuple[int, ...]  # of each task, at most


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(EstimateConfig, argv)
    groups = timing_groups(load_grid(config.grid).tasks)
    seconds = [_epoch_seconds(group) for group in progress(groups, "timing")]
    if config.json:
        pairs = zip(groups, seconds, strict=True)
        print(json.dumps([asdict(group) | {"epoch_seconds": epoch} for group, epoch in pairs]))
    else:
        _print_table(groups, seconds)
    if None in seconds:
        sys.exit(1)


def timing_groups(tasks: Iterable[Task]) -> list[TimingGroup]:
    """Group trainings by what their time depends on. Raises `UserError` for other programs."""
    groups: dict[str, TimingGroup] = {}
    for task in tasks:
        if task.program != _TRAIN:
            raise UserError(f"{task.name} runs {task.program}; only {_TRAIN} can be estimated")
        settings = to_json(build_config(TrainConfig, task.values))
        key = json.dumps({name: value for name, value in settings.items() if name not in _NO_TIME})
        known = groups.get(key, TimingGroup(settings=settings, epochs=()))
        epochs = (*known.epochs, settings["epochs"])
        groups[key] = TimingGroup(settings=known.settings, epochs=epochs)
    return list(groups.values())


def total_hours(group: TimingGroup, epoch_seconds: float) -> float:
    """Hours of all tasks of a group on one device; several devices take at least as many in sum."""
    return sum(group.epochs) * epoch_seconds / 3600


def _epoch_seconds(group: TimingGroup) -> float | None:
    """Time an epoch by the doctor; None, with a warning, if it finds a fault."""
    # The initial weights cost no time, and may not be here yet.
    flags = command_flags({**group.settings, "init": "random"})
    command = [sys.executable, "-m", "pretrain.doctor", *flags, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        findings = json.loads(done.stdout)
    except ValueError:
        findings = []
    for finding in findings:
        if finding["check"] == "time":
            return float(finding["numbers"]["epoch_seconds"])
    faults = [f["found"] for f in findings if f["level"] == "fail"] or [done.stderr.strip()[-300:]]
    warn(f"{group.settings['arch']} could not be timed: {'; '.join(faults)}")
    return None


def _print_table(groups: Sequence[TimingGroup], seconds: Sequence[float | None]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("arch")
    for heading in ("pixels", "tasks", "epoch", "hours at most"):
        table.add_column(heading, justify="right")
    total = 0.0
    for group, epoch in zip(groups, seconds, strict=True):
        hours = None if epoch is None else total_hours(group, epoch)
        total += hours or 0.0
        table.add_row(
            group.settings["arch"],
            str(group.settings["image_size"]),
            str(len(group.epochs)),
            "?" if epoch is None else f"{epoch:.1f} s",
            "?" if hours is None else f"{hours:.2f}",
        )
    table.add_row("all", "", str(sum(len(group.epochs) for group in groups)), "", f"{total:.2f}")
    out = Console(highlight=False)
    out.print(table)
    out.print("hours of one GPU like this machine's, or of all its cores if it has no GPU")


if __name__ == "__main__":
    main()
