"""The SLURM jobs of a grid: which were submitted, and what SLURM says about them."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.tasks.task_list import Grid
from micrograph.cli import UserError, warn

_ANSWER_SECONDS = 20  # timeout of squeue and sacct; a busy controller is slow
_MAX_ARRAY_SIZE = 1001  # SLURM's default

# States in which squeue shows a job that has its nodes.
_ON_NODES = {"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED", "STOPPED"}


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A task's job in the queue."""

    job: str  # ARRAY_INDEX
    on_nodes: bool  # False: waiting
    reason: str  # for waiting


@dataclass(frozen=True, slots=True)
class Jobs:
    """What SLURM knows about a grid's tasks, by task index."""

    submitted: Mapping[int, str]  # the newest job of each task
    queued: Mapping[int, QueueEntry]
    ended: Mapping[int, str]  # state of jobs that left the queue, from sacct if installed


def max_array_size() -> int:
    """The cluster's limit on an array's size and indices; SLURM's default if it does not answer.

    Raises `UserError` if the cluster does not allow arrays.
    """
    text = _run(["scontrol", "show", "config"]) or ""
    found = re.findall(r"^MaxArraySize\s*=\s*(\d+)|\bmax_array_tasks=(\d+)", text, re.MULTILINE)
    size = min((int(a or b) for a, b in found), default=_MAX_ARRAY_SIZE)
    if size == 0:
        raise UserError(
            "this cluster does not allow job arrays (MaxArraySize is 0); ask its administrator, or "
            "run python -m launch.local inside a job"
        )
    return size


def record_jobs(grid: Grid, job: str, indices: Sequence[int], offset: int = 0) -> None:
    """Record that the tasks `indices` were submitted as the array `job`, less the offset.

    They are recorded by name, since editing the grid may change their numbers.
    """
    tasks = {grid.tasks[index].name: index - offset for index in indices}
    line = json.dumps({"job": job, "tasks": tasks, "submitted": time.time()})
    grid.launch_folder.mkdir(parents=True, exist_ok=True)
    path = _path(grid)
    # A full disk may have cut the last line short.
    incomplete = path.is_file() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as stream:
        stream.write("\n" * incomplete + line + "\n")


def ask_slurm(grid: Grid) -> Jobs | None:
    """Ask SLURM about the tasks; None if nothing was submitted or SLURM does not answer."""
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
    # Of "CANCELLED by 1000", the first word.
    return {index: states[job].split()[0] for job, index in gone.items() if job in states}


def _run(command: list[str]) -> str | None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None


def submitted_jobs(grid: Grid) -> dict[int, str]:
    """The newest job of each task, by the task's present index."""
    jobs: dict[int, str] = {}
    now = {task.name: task.index for task in grid.tasks}
    for job, tasks in _records(_path(grid)):
        jobs |= {now[name]: f"{job}_{index}" for name, index in tasks.items() if name in now}
    return jobs


def _records(path: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """The job and its tasks from each line; warns of a damaged line and skips it."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line)
            yield str(record["job"]), {str(n): int(i) for n, i in record["tasks"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            warn(f"line {number} of {path} is damaged; the jobs it recorded are not known")


def _path(grid: Grid) -> Path:
    return grid.launch_folder / "jobs.jsonl"
