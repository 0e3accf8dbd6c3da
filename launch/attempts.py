"""What became of a task's last start: who ran it, how it ended, and what that means.

A record lies in `_launch/attempts/NAME.json`. `accelerate launch` exits 1 whatever its trainer
exited with; the trainer's own status.json, if younger than the start, tells which end it was.
"""

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from launch.programs import find_program
from launch.tasks import Grid, Task
from pretrain.atomic import write_atomically
from pretrain.status import EXIT_INTERRUPTED, Status, read_status
from shards.cli import UserError

# interrupted: saved, goes on. stopped: by a SIGTERM, without saving; begins anew.
Verdict = Literal["finished", "interrupted", "stopped", "failed"]

_ERROR_LINE = re.compile(r"^(\[rank\d+\]:\s*)?(error:|\w*(Error|Exception|Interrupt)\b)")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\r")
_LOG_TAIL = 64_000  # bytes; a traceback is a few thousand
_HEADER = "=== started"  # parts the attempts in a log
_TERMINATED = 128 + 15  # by SIGTERM, as shells report it
_SIGNALS = {137: "killed, perhaps for its memory", 139: "crashed (segmentation fault)"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One start of a task."""

    job: str  # of SLURM; "" without
    host: str
    pid: int
    started: float  # Unix time in seconds
    ended: float | None = None
    code: int | None = None  # exit code of the program's launcher
    reason: str = ""  # why it failed
    settings: Mapping[str, Any] | None = None  # of the task; None in records of earlier versions


def begin(grid: Grid, task: Task, pid: int) -> Attempt:
    """Record that `task` starts now, in process `pid` of this host, and say so in its log."""
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


def end(grid: Grid, task: Task, code: int) -> tuple[Verdict, str]:
    """Record that the task's launcher ended with `code`; returns what that means, and why."""
    attempt = read_attempt(grid, task)
    if attempt is None:
        raise UserError(f"task {task.name} was never started")
    attempt = replace(attempt, ended=time.time(), code=code)
    verdict, reason = judge(grid, task, attempt)
    _write(_path(grid, task), replace(attempt, reason=reason))
    return verdict, reason


def read_attempt(grid: Grid, task: Task) -> Attempt | None:
    """The record of the last start; None when there was none."""
    path = _path(grid, task)
    try:
        return Attempt(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot read {path}: {error}; delete it") from error


def judge(grid: Grid, task: Task, attempt: Attempt) -> tuple[Verdict, str]:
    """What an ended attempt came to, and the reason if it failed."""
    status = task_status(task)
    # A status older than the start is of an earlier attempt; a second for coarse file clocks.
    fresh = status if status is not None and status.updated >= attempt.started - 1 else None
    if attempt.code == 0:
        if is_finished(task, status):
            return "finished", ""
        return "failed", "ended without an error, yet not finished"
    told = fresh is not None and fresh.state == "interrupted"
    if told or attempt.code == EXIT_INTERRUPTED:  # the code of programs that write no status
        return "interrupted", ""
    if attempt.code == _TERMINATED:
        return "stopped", ""
    if fresh is not None and fresh.state == "failed" and fresh.reason:
        return "failed", fresh.reason
    return "failed", last_error(grid.log(task)) or _spell_code(attempt.code)


def changed_settings(task: Task, attempt: Attempt) -> str:
    """What was otherwise when the task was started: `epochs 1, now 5`; "" when nothing was."""
    before, now = attempt.settings, json.loads(json.dumps(_settings(task), default=str))
    if before is None:
        return ""
    return "; ".join(
        f"{name} {before.get(name, 'not set')}, now {now.get(name, 'not set')}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    )


def task_status(task: Task) -> Status | None:
    """The status.json of a program that writes one."""
    if find_program(task.program).result_name is not None:
        return None
    return read_status(task.folder)


def is_finished(task: Task, status: Status | None) -> bool:
    """Whether the program did all that it was asked for."""
    result = find_program(task.program).result_name
    if result is not None:
        return (task.folder / result).is_file()
    return status is not None and status.state == "finished"


def last_error(log: Path) -> str:
    """The last line of a log that looks like an error; "" when there is none."""
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


def _spell_code(code: int | None) -> str:
    hint = f" ({_SIGNALS[code]})" if code in _SIGNALS else ""
    return f"ended with exit code {code}{hint}"


def _settings(task: Task) -> dict[str, Any]:
    """What decides a task's result: not its folder, which may be moved with the grid's root."""
    folder = find_program(task.program).folder_setting
    try:
        values = task.values
    except UserError:  # a recipe that is gone or damaged since; its program says so
        values = {**task.settings, "config": str(task.config)}
    return {name: value for name, value in values.items() if name != folder}


def _path(grid: Grid, task: Task) -> Path:
    return grid.own / "attempts" / f"{task.name}.json"


def _write(path: Path, attempt: Attempt) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(attempt), indent=1, default=str).encode())
