"""Prints how the tasks of a grid stand, with and without SLURM, in a moment and without torch.

python -m launch.status GRID [--only STATE ...] [--json]
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.grid import load_grid
from launch.state import Kind, TaskState, grid_states, spell_counts
from pretrain.pace import duration
from shards.cli import ArgumentParser, program

_COLOURS: dict[Kind, str] = {
    "pending": "dim",
    "running": "cyan",
    "preempted": "yellow",
    "done": "green",
    "failed": "red",
}


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description="How the tasks of a grid stand.")
    parser.add_argument("grid", type=Path, help="YAML file of the grid")
    parser.add_argument(
        "--only", nargs="+", choices=get_args(Kind), help="tasks of these states", metavar="STATE"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per task")
    arguments = parser.parse_args(argv)
    grid = load_grid(arguments.grid)
    states = grid_states(grid)
    shown = [s for s in states if arguments.only is None or s.kind in arguments.only]
    if arguments.json:
        for state in shown:
            print(json.dumps(_record(state)))
        return
    # A pipe has no width: nothing is cut there.
    out = Console() if Console().is_terminal else Console(width=500)
    out.print(states_table(shown))
    out.print(f"{grid.name}: {len(states)} tasks: {spell_counts(states)}", highlight=False)


def states_table(states: Sequence[TaskState]) -> Table:
    """A row for each task."""
    table = Table(box=None, pad_edge=False)
    for heading, justify in (
        ("task", "right"),
        ("name", "left"),
        ("state", "left"),
        ("epoch", "right"),
        ("best top-1", "right"),
        ("left, at most", "right"),
    ):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("")
    for state in states:
        table.add_row(
            str(state.task.index),
            state.task.name,
            Text(state.kind, _COLOURS[state.kind]),
            *_progress(state),
            Text(" ".join(state.detail.split())),
        )
    return table


def _progress(state: TaskState) -> tuple[str, str, str]:
    """Epoch, best top-1 and time left, each blank where the program does not tell."""
    status = state.status
    if status is None:
        return "", "", ""
    best = "" if status.best_top1 is None else f"{status.best_top1:.2%}"
    if status.converged is False:
        best += " (chance)"
    left = ""
    if state.kind == "running" and status.eta_seconds is not None:
        left = duration(max(0.0, status.eta_seconds - (time.time() - status.updated)))
    return f"{status.epoch}/{status.epochs}", best, left


def _record(state: TaskState) -> dict[str, object]:
    status = state.status
    return {
        "index": state.task.index,
        "name": state.task.name,
        "state": state.kind,
        "detail": state.detail,
        "folder": str(state.task.folder),
        "epoch": status.epoch if status else None,
        "best_top1": status.best_top1 if status else None,
        "eta_seconds": status.eta_seconds if status else None,
    }


if __name__ == "__main__":
    main()
