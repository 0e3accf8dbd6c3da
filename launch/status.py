"""Prints the status of a grid's tasks, with or without SLURM, quickly and without torch.

python -m launch.status GRID [--only STATE ...] [--json]
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.state.state import TaskState, TaskStatus, format_counts, grid_statuses
from launch.tasks.grid import load_grid
from micrograph.cli import program
from micrograph.settings import Positional, load_config
from pretrain.runs.throughput import duration

_COLOURS: dict[TaskState, str] = {
    TaskState.WAITING: "dim",
    TaskState.RUNNING: "cyan",
    TaskState.INTERRUPTED: "yellow",
    TaskState.FINISHED: "green",
    TaskState.FAILED: "red",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusConfig:
    """Print the status of a grid's tasks."""

    grid: Annotated[Path, Positional, "YAML file of the grid"]
    only: Annotated[tuple[TaskState, ...], f"tasks in these states: {', '.join(_COLOURS)}"] = ()
    json: Annotated[bool, "print a JSON object for each task"] = False


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(StatusConfig, argv)
    grid = load_grid(config.grid)
    statuses = grid_statuses(grid)
    shown = [s for s in statuses if not config.only or s.state in config.only]
    if config.json:
        for status in shown:
            print(json.dumps(_record(status)))
        return
    # A pipe has no width, so nothing is cut there.
    out = Console() if Console().is_terminal else Console(width=500)
    out.print(status_table(shown))
    out.print(f"{grid.name}: {len(statuses)} tasks: {format_counts(statuses)}", highlight=False)


def status_table(statuses: Sequence[TaskStatus]) -> Table:
    """A row for each task."""
    table = Table(box=None, pad_edge=False)
    for heading, justify in (
        ("task", "right"),
        ("name", "left"),
        ("state", "left"),
        ("epoch", "right"),
        ("best top-1", "right"),
        ("time left", "right"),
    ):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("")
    for status in statuses:
        table.add_row(
            str(status.task.index),
            status.task.name,
            Text(status.state, _COLOURS[status.state]),
            *_progress(status),
            Text(" ".join(status.detail.split())),
        )
    return table


def _progress(status: TaskStatus) -> tuple[str, str, str]:
    """Epoch, best top-1 and time left, blank if the program does not report them."""
    run = status.run
    if run is None:
        return "", "", ""
    best = "" if run.best_top1 is None else f"{run.best_top1:.2%}"
    if run.converged is False:
        best += " (chance)"
    left = ""
    if (
        status.state == TaskState.RUNNING and run.eta_seconds is not None
    ):  # early stopping may be sooner
        left = f"≤ {duration(max(0.0, run.eta_seconds - (time.time() - run.updated)))}"
    return f"{run.epoch}/{run.epochs}", best, left


def _record(status: TaskStatus) -> dict[str, object]:
    run = status.run
    return {
        "index": status.task.index,
        "name": status.task.name,
        "state": status.state,
        "detail": status.detail,
        "folder": str(status.task.folder),
        "epoch": run.epoch if run else None,
        "best_top1": run.best_top1 if run else None,
        "eta_seconds": run.eta_seconds if run else None,
    }


if __name__ == "__main__":
    main()
