"""Which tasks of a grid are to be started, and the settings of launch that select them."""

import fnmatch
import time
from collections.abc import Sequence
from typing import Annotated

from launch.state.state import TaskState, TaskStatus
from launch.tasks.task_list import Grid
from micrograph.cli import UserError, warn

RetryFailed = Annotated[bool, "start the failed tasks, and no others"]
Restart = Annotated[bool, "with --retry-failed: from the beginning; old folders are moved aside"]
Only = Annotated[tuple[str, ...], "tasks whose names match a pattern: 'resnet*.random' [all]"]


def check_flags(retry_failed: bool, restart: bool) -> None:
    """Raise `ValueError` for flags that exclude each other."""
    if restart and not retry_failed:
        raise ValueError("--restart needs --retry-failed")


def select_tasks(
    statuses: Sequence[TaskStatus], *, only: Sequence[str] = (), retry_failed: bool = False
) -> list[TaskStatus]:
    """Waiting and interrupted tasks that are not in the queue; or, to retry, the failed ones.

    Raises `UserError` for a pattern that matches no task.
    """
    patterns = only or ["*"]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(status.task.name, pattern) for status in statuses):
            raise UserError(f"no task matches {pattern!r}; python -m launch.grid lists the names")
    warn_of_changed_settings(statuses)
    states = {TaskState.FAILED} if retry_failed else {TaskState.WAITING, TaskState.INTERRUPTED}
    return [
        status
        for status in statuses
        if status.state in states
        and not status.queued
        and any(fnmatch.fnmatchcase(status.task.name, pattern) for pattern in patterns)
    ]


def warn_of_changed_settings(statuses: Sequence[TaskStatus]) -> None:
    """Warn of finished tasks whose settings have changed: their results are not this grid's."""
    changed = [
        status for status in statuses if status.state == TaskState.FINISHED and status.detail
    ]
    if changed:
        first = changed[0]
        warn(
            f"{len(changed)} finished tasks ran with other settings and are not run again (first: "
            f"{first.task.name}, {first.detail}); to run them, give the grid another name or root"
        )


def move_aside(grid: Grid, statuses: Sequence[TaskStatus]) -> None:
    """Move the folders of tasks away, so that they start from the beginning; delete nothing."""
    for folder in (status.task.folder for status in statuses):
        if folder.exists():
            place = grid.launch_folder / "aside" / f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"
            place.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(place)
