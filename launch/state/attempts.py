"""The last start of each task: who ran it, how it ended, and why it failed.

A record is in `_launch/attempts/NAME.json`. `accelerate launch` exits 1 for every error of its
trainer, so a status.json that is newer than the start decides, not the exit code.
"""

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from launch.tasks.programs import find_program
from launch.tasks.task_list import Grid, Task
from micrograph.atomic import write_atomically
from micrograph.cli import EXIT_INTERRUPTED, UserError
from pretrain.runs.status import RunState, Status, read_status

STOPPED = "stopped without saving; starts again from its last checkpoint, if it has one"

_ERROR_LINE = re.compile(r"^(\[rank\d+\]:\s*)?(error:|\w*(Error|Exception|Interrupt)\b)")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\r")
_LOG_TAIL = 64_000  # bytes; a traceback has a few thousand
_HEADER = "=== started"  # separates the attempts in a log
_TERMINATED = 128 + 15  # by SIGTERM, as shells report it
_SIGNALS = {137: "killed, perhaps for its memory", 139: "crashed (segmentation fault)"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One start of a task."""

    job: str  # SLURM's job id; "" without SLURM
    host: str
    pid: int
    started: float  # Unix time in seconds
    settings: Mapping[str, Any]  # of the task, without its folder
    ended: float | None = None
    code: int | None = None  # exit code of the program's launcher
    reason: str = ""  # why it failed


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    state: RunState
    reason: str = ""
    saved: bool = True  # False: interrupted without a chance to save


def record_start(grid: Grid, task: Task, pid: int) -> Attempt:
    """Record that `task` starts now as process `pid` of this host, also in the task's log."""
    attempt = Attempt(
        job=os.environ.get("SLURM_JOB_ID", ""),
        host=socket.gethostname(),
        pid=pid,
        started=time.time(),
        settings=_settings(task),
    )
    _write(_path(grid, task), attempt)
    log = grid.log(task)
    log.parent.mkdir(parents=True, exist_ok=True)
    job = f", job {attempt.job}" if attempt.job else ""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.started))
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"{_HEADER} {when} on {attempt.host}{job}\n")
    return attempt


def record_end(grid: Grid, task: Task, code: int) -> Outcome:
    """Record that the task's launcher exited with `code`."""
    attempt = read_attempt(grid, task)
    if attempt is None:
        raise UserError(f"task {task.name} was never started")
    attempt = replace(attempt, ended=time.time(), code=code)
    outcome = find_outcome(grid, task, attempt)
    _write(_path(grid, task), replace(attempt, reason=outcome.reason))
    return outcome


def read_attempt(grid: Grid, task: Task) -> Attempt | None:
    """The record of the last start; None before the first."""
    path = _path(grid, task)
    try:
        return Attempt(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot read {path}: {error}; delete it") from error


def find_outcome(grid: Grid, task: Task, attempt: Attempt) -> Outcome:
    """The outcome of an attempt that has ended."""
    status = read_task_status(task)
    # An older status belongs to an earlier attempt; one second allows for coarse file clocks.
    fresh = status if status is not None and status.updated >= attempt.started - 1 else None
    if attempt.code == 0:
        if is_finished(task, status):
            return Outcome(RunState.FINISHED)
        return Outcome(RunState.FAILED, "exited without an error, but has not finished")
    if (
        fresh is not None and fresh.state == RunState.INTERRUPTED
    ) or attempt.code == EXIT_INTERRUPTED:
        return Outcome(RunState.INTERRUPTED)
    if attempt.code == _TERMINATED:
        return Outcome(RunState.INTERRUPTED, STOPPED, saved=False)
    if fresh is not None and fresh.state == RunState.FAILED and fresh.reason:
        return Outcome(RunState.FAILED, fresh.reason)
    return Outcome(RunState.FAILED, last_error(grid.log(task)) or _format_code(attempt.code))


def changed_settings(task: Task, attempt: Attempt) -> str:
    """Settings that differ from those of the attempt: `epochs 1, now 5`; "" if none does."""
    before, now = attempt.settings, json.loads(json.dumps(_settings(task), default=str))
    return "; ".join(
        f"{name} {before.get(name, 'not set')}, now {now.get(name, 'not set')}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    )


def read_task_status(task: Task) -> Status | None:
    """The task's status.json; None if it has none, or if its program writes none."""
    if find_program(task.program).result_name is not None:
        return None
    return read_status(task.folder)


def is_finished(task: Task, status: Status | None) -> bool:
    """Whether the program has completed its work."""
    result = find_program(task.program).result_name
    if result is not None:
        return (task.folder / result).is_file()
    return status is not None and status.state == RunState.FINISHED


def last_error(log: Path) -> str:
    """The last line of the last attempt in a log that looks like an error; "" if none does."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _LOG_TAIL))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in _ESCAPES.sub("", text).splitlines()]
    starts = [at for at, line in enumerate(lines) if line.startswith(_HEADER)]
    errors = [line for line in lines[starts[-1] if starts else 0 :] if _ERROR_LINE.match(line)]
    return errors[-1].removeprefix("error: ") if errors else ""


def _format_code(code: int | None) -> str:
    hint = f" ({_SIGNALS[code]})" if code in _SIGNALS else ""
    return f"exited with code {code}{hint}"


def _settings(task: Task) -> dict[str, Any]:
    """What determines a task's result: not its folder, which moves with the grid's root."""
    folder = find_program(task.program).folder_setting
    try:
        values = task.values
    except UserError:  # the recipe is missing or damaged; the program itself will report that
        values = {**task.settings, "config": str(task.config)}
    return {name: value for name, value in values.items() if name != folder}


def _path(grid: Grid, task: Task) -> Path:
    return grid.launch_folder / "attempts" / f"{task.name}.json"


def _write(path: Path, attempt: Attempt) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(attempt), indent=1, default=str).encode())
