"""The status of each task of a grid, from what its program, its last start and SLURM say."""

import os
import socket
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from launch.cluster.jobs import Jobs, QueueEntry, ask_slurm
from launch.state.attempts import (
    Attempt,
    changed_settings,
    find_outcome,
    is_finished,
    read_attempt,
    read_task_status,
)
from launch.tasks.task_list import Grid, Task
from micrograph.cli import UserError
from pretrain.runs.status import RunState, Status


class TaskState(StrEnum):
    """The states of a task: waiting until its first start, then those of its run."""

    FINISHED = RunState.FINISHED
    RUNNING = RunState.RUNNING
    INTERRUPTED = RunState.INTERRUPTED
    WAITING = "waiting"
    FAILED = RunState.FAILED


_KILLED = "killed without saving; continues from its last checkpoint"
# How SLURM ends a job that did nothing wrong.
_NOT_AN_ERROR = {"TIMEOUT", "PREEMPTED", "NODE_FAIL", "REQUEUED", "CANCELLED", "BOOT_FAIL"}


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """How one task is doing."""

    task: Task
    state: TaskState
    detail: str = ""  # why it failed, waits or stopped; for a finished task, settings changed since
    queued: bool = False  # SLURM will start it, or has
    run: Status | None = None  # status.json, if its program writes one


def grid_statuses(grid: Grid) -> list[TaskStatus]:
    """The status of every task, in order."""
    jobs = ask_slurm(grid)
    return [task_status(grid, task, jobs) for task in grid.tasks]


def task_status(grid: Grid, task: Task, jobs: Jobs | None = None) -> TaskStatus:
    """The status of one task; `jobs` is what SLURM says, if it was asked."""
    try:
        run = read_task_status(task)
        attempt = read_attempt(grid, task)
    except UserError as error:
        return TaskStatus(task, TaskState.FAILED, str(error))
    entry = jobs.queued.get(task.index) if jobs else None
    if entry is not None:
        return _queued(task, attempt, run, entry)
    if attempt is None:
        return _never_started(task, run)
    if attempt.ended is None:
        # With commands to run after it, it is started again, since they may not have run.
        if is_finished(task, run) and not grid.after_task and not _is_alive(attempt, jobs):
            return _finished(task, attempt, run)
        return _without_end(task, attempt, run, jobs)
    outcome = find_outcome(grid, task, attempt)
    if outcome.state == RunState.FINISHED or _finished_since(task, attempt, run):
        return _finished(task, attempt, run)
    return TaskStatus(task, TaskState(outcome.state), outcome.reason, run=run)


def format_counts(statuses: Iterable[TaskStatus]) -> str:
    """How many tasks are in each state: `3 finished, 1 failed`."""
    counts = Counter(status.state for status in statuses)
    return ", ".join(f"{counts[state]} {state}" for state in TaskState if state in counts)


def _queued(
    task: Task, attempt: Attempt | None, run: Status | None, entry: QueueEntry
) -> TaskStatus:
    if entry.on_nodes:
        return TaskStatus(task, TaskState.RUNNING, f"job {entry.job}", queued=True, run=run)
    state = TaskState.WAITING if attempt is None else TaskState.INTERRUPTED
    detail = f"in the queue as {entry.job} ({entry.reason})"
    return TaskStatus(task, state, detail, queued=True, run=run)


def _finished(task: Task, attempt: Attempt, run: Status | None) -> TaskStatus:
    changed = changed_settings(task, attempt)
    return TaskStatus(task, TaskState.FINISHED, f"with {changed}" if changed else "", run=run)


def _never_started(task: Task, run: Status | None) -> TaskStatus:
    """A task that launch never started, though someone may have run its command by hand."""
    if is_finished(task, run):
        return TaskStatus(task, TaskState.FINISHED, run=run)
    if run is None:
        return TaskStatus(task, TaskState.WAITING)
    return TaskStatus(task, TaskState(run.state), run.reason, run=run)


def _without_end(task: Task, attempt: Attempt, run: Status | None, jobs: Jobs | None) -> TaskStatus:
    """A task whose last attempt recorded no end: it is running, or was killed."""
    if _is_alive(attempt, jobs):
        where = f"job {attempt.job}" if attempt.job else f"on {attempt.host}"
        return TaskStatus(task, TaskState.RUNNING, where, run=run)
    if run is not None and run.state == RunState.INTERRUPTED and run.updated >= attempt.started:
        return TaskStatus(task, TaskState.INTERRUPTED, run=run)
    ended = jobs.ended.get(task.index, "") if jobs else ""
    if ended and ended not in _NOT_AN_ERROR:
        return TaskStatus(task, TaskState.FAILED, f"SLURM says {ended}", run=run)
    detail = f"{_KILLED} (SLURM says {ended})" if ended else _KILLED
    return TaskStatus(task, TaskState.INTERRUPTED, detail, run=run)


def _is_alive(attempt: Attempt, jobs: Jobs | None) -> bool:
    """Whether an attempt without an end is still running; if this cannot be known, it is."""
    if attempt.job:
        return jobs is None  # otherwise it would be in the queue
    if attempt.host != socket.gethostname():
        return True
    try:
        os.kill(attempt.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _finished_since(task: Task, attempt: Attempt, run: Status | None) -> bool:
    """Whether someone finished the task by hand after the attempt."""
    return (
        run is not None
        and attempt.ended is not None
        and run.updated > attempt.ended
        and is_finished(task, run)
    )
