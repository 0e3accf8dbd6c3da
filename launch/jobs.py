"""The SLURM jobs of a grid: which were submitted, and what squeue and sacct say of them."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.tasks import Grid

_ANSWER_SECONDS = 20  # of squeue or sacct; a busy controller is slow

# What squeue calls a job that holds its nodes.
_ON_NODES = {"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED", "STOPPED"}


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A task's job in the queue."""

    job: str  # ARRAY_INDEX
    on_nodes: bool  # False: it waits
    reason: str  # why it waits


@dataclass(frozen=True, slots=True)
class Jobs:
    """What SLURM knows of a grid's tasks, by task index."""

    submitted: Mapping[int, str]  # the newest job of each task
    queued: Mapping[int, QueueEntry]
    ended: Mapping[int, str]  # sacct's state of jobs that left the queue, where there is sacct


def record_jobs(grid: Grid, job: str, indices: Sequence[int]) -> None:
    """Note that `indices` were submitted as the job array `job`.

    By name: in a grid that is edited afterwards, the same tasks may have other numbers.
    """
    tasks = {grid.tasks[index].name: index for index in indices}
    line = json.dumps({"job": job, "tasks": tasks, "submitted": time.time()})
    grid.own.mkdir(parents=True, exist_ok=True)
    with _path(grid).open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


def ask_slurm(grid: Grid) -> Jobs | None:
    """What SLURM says; None when nothing was submitted or SLURM cannot be asked from here."""
    submitted = submitted_jobs(grid)
    if not submitted or shutil.which("squeue") is None:
        return None
    listing = _run(["squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r"])
    if listing is None:
        return None
    entries = {}
    for line in listing.splitlines():
        job, state, reason = line.strip().split("|", 2)
        entries[job] = QueueEntry(job, state in _ON_NODES, reason)
    queued = {index: entries[job] for index, job in submitted.items() if job in entries}
    gone = {job: index for index, job in submitted.items() if index not in queued}
    return Jobs(submitted, queued, _ended(gone))


def _ended(gone: Mapping[str, int]) -> dict[int, str]:
    if not gone or shutil.which("sacct") is None:
        return {}
    arrays = ",".join(sorted({job.split("_")[0] for job in gone}))
    listing = _run(["sacct", "-X", "-n", "-P", "--format=JobID,State", "-j", arrays]) or ""
    states = dict(line.split("|", 1) for line in listing.splitlines() if "|" in line)
    # "CANCELLED by 1000" says no more than its first word.
    return {index: states[job].split()[0] for job, index in gone.items() if job in states}


def _run(command: list[str]) -> str | None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None


def submitted_jobs(grid: Grid) -> dict[int, str]:
    """The newest job of each task, by the index that the task has now."""
    jobs: dict[int, str] = {}
    now = {task.name: task.index for task in grid.tasks}
    for record in _records(_path(grid)):
        then = record["tasks"].items()
        jobs |= {now[name]: f"{record['job']}_{index}" for name, index in then if name in now}
    return jobs


def _records(path: Path) -> Iterable[dict[str, Any]]:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines()]


def _path(grid: Grid) -> Path:
    return grid.own / "jobs.jsonl"
