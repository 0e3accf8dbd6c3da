"""Which tasks of a grid are to be started, and the flags that say so."""

import argparse
import fnmatch
import time
from collections.abc import Sequence

from launch.state import TaskState
from launch.tasks import Grid
from shards.cli import UserError, warn


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `chosen_tasks` reads."""
    parser.add_argument(
        "--retry-failed", action="store_true", help="start the failed tasks, and only those"
    )
    parser.add_argument(
        "--afresh",
        action="store_true",
        help="with --retry-failed: move their folders aside and begin anew (with another lr …)",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="of the tasks that fit a name: 'resnet*.random'"
    )


def chosen_tasks(states: Sequence[TaskState], arguments: argparse.Namespace) -> list[TaskState]:
    """Pending and preempted tasks that nobody is to run yet; with --retry-failed the failed ones.

    Raises `UserError` for flags that do not go together or fit nothing.
    """
    if arguments.afresh and not arguments.retry_failed:
        raise UserError("--afresh goes with --retry-failed")
    patterns = arguments.only or ["*"]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(state.task.name, pattern) for state in states):
            raise UserError(f"no task fits {pattern!r}; python -m launch.grid prints the names")
    tell_of_changes(states)
    kinds = {"failed"} if arguments.retry_failed else {"pending", "preempted"}
    return [
        state
        for state in states
        if state.kind in kinds
        and not state.queued
        and any(fnmatch.fnmatchcase(state.task.name, pattern) for pattern in patterns)
    ]


def tell_of_changes(states: Sequence[TaskState]) -> None:
    """An edited grid, or another one of the same name, must not pass old results off as its own."""
    changed = [state for state in states if state.kind == "done" and state.detail]
    if changed:
        first = changed[0]
        warn(
            f"{len(changed)} finished tasks ran with other settings and are not run again (first: "
            f"{first.task.name}, {first.detail}); for new ones give the grid another name or root"
        )


def set_aside(grid: Grid, state: TaskState) -> None:
    """Move a task's folder out of the way, so that it begins anew; nothing is deleted."""
    folder = state.task.folder
    if folder.exists():
        place = grid.own / "aside" / f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        place.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(place)
