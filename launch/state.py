"""How each task of a grid stands, from what its program, its last start and SLURM say."""

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from launch.attempts import Attempt, changed_settings, is_finished, judge, read_attempt, task_status
from launch.jobs import Jobs, QueueEntry, ask_slurm
from launch.tasks import Grid, Task
from pretrain.status import Status
from shards.cli import UserError

# pending: not begun. preempted: begun, and goes on where it stopped when it is started again.
Kind = Literal["pending", "running", "preempted", "done", "failed"]

_KILLED = "killed without saving; goes on from its last checkpoint"
_STOPPED = "stopped without saving; begins anew, or at its last checkpoint"
# How SLURM ends a job that did nothing wrong.
_BLAMELESS = {"TIMEOUT", "PREEMPTED", "NODE_FAIL", "REQUEUED", "CANCELLED", "BOOT_FAIL"}


@dataclass(frozen=True, slots=True)
class TaskState:
    """How one task stands."""

    task: Task
    kind: Kind
    detail: str = ""  # why it failed, waits, or stopped; done with which other settings
    queued: bool = False  # SLURM will run it without being asked again
    status: Status | None = None  # the program's own word, if it writes one


def grid_states(grid: Grid) -> list[TaskState]:
    """The state of every task, in order."""
    jobs = ask_slurm(grid)
    return [task_state(grid, task, jobs) for task in grid.tasks]


def task_state(grid: Grid, task: Task, jobs: Jobs | None = None) -> TaskState:
    """The state of one task; `jobs` is what SLURM says, if it was asked."""
    try:
        status = task_status(task)
        attempt = read_attempt(grid, task)
    except UserError as error:
        return TaskState(task, "failed", str(error))
    entry = jobs.queued.get(task.index) if jobs else None
    if entry is not None:
        return _queued(task, attempt, status, entry)
    if attempt is None:
        return _by_status(task, status)
    if attempt.ended is None:
        # What was to follow, publishing say, may not have: then it is started again, to do that.
        if is_finished(task, status) and not grid.after_task and not _alive(attempt, jobs):
            return _done(task, attempt, status)
        return _unended(task, attempt, status, jobs)
    verdict, reason = judge(grid, task, attempt)
    if verdict == "finished" or _finished_since(task, attempt, status):
        return _done(task, attempt, status)
    if verdict == "stopped":
        return TaskState(task, "preempted", _STOPPED, status=status)
    kind: Kind = "preempted" if verdict == "interrupted" else "failed"
    return TaskState(task, kind, reason, status=status)


def count_kinds(states: Iterable[TaskState]) -> dict[Kind, int]:
    """How many tasks are of each kind, of those that occur."""
    counts: dict[Kind, int] = {}
    for state in states:
        counts[state.kind] = counts.get(state.kind, 0) + 1
    return counts


def spell_counts(states: Iterable[TaskState]) -> str:
    """The counts as a phrase: `3 done, 1 failed`."""
    order: tuple[Kind, ...] = ("done", "running", "preempted", "pending", "failed")
    counts = count_kinds(states)
    return ", ".join(f"{counts[kind]} {kind}" for kind in order if kind in counts)


def _queued(
    task: Task, attempt: Attempt | None, status: Status | None, entry: QueueEntry
) -> TaskState:
    if entry.on_nodes:
        return TaskState(task, "running", f"job {entry.job}", queued=True, status=status)
    kind: Kind = "pending" if attempt is None else "preempted"
    waits = f"in the queue as {entry.job} ({entry.reason})"
    return TaskState(task, kind, waits, queued=True, status=status)


def _done(task: Task, attempt: Attempt, status: Status | None) -> TaskState:
    changed = changed_settings(task, attempt)
    return TaskState(task, "done", f"with {changed}" if changed else "", status=status)


def _by_status(task: Task, status: Status | None) -> TaskState:
    """Of a task that launch never started; somebody may have run its command by hand."""
    if is_finished(task, status):
        return TaskState(task, "done", status=status)
    if status is None:
        return TaskState(task, "pending")
    kinds: dict[str, Kind] = {"running": "running", "interrupted": "preempted"}
    return TaskState(task, kinds.get(status.state, "failed"), status.reason, status=status)


def _unended(task: Task, attempt: Attempt, status: Status | None, jobs: Jobs | None) -> TaskState:
    if _alive(attempt, jobs):
        where = f"job {attempt.job}" if attempt.job else f"on {attempt.host}"
        return TaskState(task, "running", where, status=status)
    if status is not None and status.state == "interrupted" and status.updated >= attempt.started:
        return TaskState(task, "preempted", status=status)
    ended = jobs.ended.get(task.index, "") if jobs else ""
    if ended and ended not in _BLAMELESS:
        return TaskState(task, "failed", f"SLURM says {ended}", status=status)
    detail = f"{_KILLED} (SLURM says {ended})" if ended else _KILLED
    return TaskState(task, "preempted", detail, status=status)


def _alive(attempt: Attempt, jobs: Jobs | None) -> bool:
    """Whether an attempt without an end may still run; where it cannot be known, it does."""
    if attempt.job:
        return jobs is None  # else it would be in the queue
    if attempt.host != socket.gethostname():
        return True
    try:
        os.kill(attempt.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _finished_since(task: Task, attempt: Attempt, status: Status | None) -> bool:
    """Whether somebody finished a failed task by hand."""
    return (
        status is not None
        and attempt.ended is not None
        and status.updated > attempt.ended
        and is_finished(task, status)
    )
