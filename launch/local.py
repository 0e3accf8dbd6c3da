"""Runs the tasks of a grid on this machine, several at a time, without SLURM.

    python -m launch.local GRID [--jobs N] [--threads N] [--gpus 0,1] [--only NAME ...]

Tasks that run at the same time share the cores evenly, unless --threads or their own settings say
otherwise. Finished tasks are skipped and interrupted ones continue. Ctrl-C (or SIGTERM) asks the
running tasks to save and waits for them; a second Ctrl-C kills them. Exit code 1: a task failed.
"""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from launch.cluster.start import local_start
from launch.state.attempts import record_end, record_start
from launch.state.selection import Only, Restart, RetryFailed, check_flags, move_aside, select_tasks
from launch.state.state import TaskState, TaskStatus, format_counts, grid_statuses
from launch.tasks.grid import load_grid
from launch.tasks.programs import command_flags, find_program, thread_settings
from launch.tasks.task_list import Grid, Task, freeze
from micrograph.cli import UserError, console, cores, program, progress_bar
from micrograph.locks import lock_folder
from micrograph.settings import Positional, load_config

EXIT_FAILED = 1
_POLL_SECONDS = 0.2
_SIGNAL_SECONDS = 2.0  # between signals: a trainer that is still importing torch misses the first


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalConfig:
    """Run the tasks of a grid on this machine."""

    grid: Annotated[Path, Positional, "YAML file of the grid"]
    jobs: Annotated[int, "how many tasks run at the same time"] = 1
    threads: Annotated[
        int | None, "cores of a task that sets no threads itself [all; with --jobs, its share]"
    ] = None
    gpus: Annotated[str | None, "numbers of the GPUs, 0,1,… [CUDA_VISIBLE_DEVICES, or all]"] = None
    retry_failed: RetryFailed = False
    restart: Restart = False
    only: Only = ()

    def __post_init__(self) -> None:
        check_flags(self.retry_failed, self.restart)
        if self.jobs < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError("--jobs and --threads must be at least 1")


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(LocalConfig, argv)
    grid = load_grid(config.grid)
    with lock_folder(grid.launch_folder, ".local.lock"):
        selected = select_tasks(
            grid_statuses(grid), only=config.only, retry_failed=config.retry_failed
        )
        if config.restart:
            move_aside(grid, selected)
        jobs = min(config.jobs, len(selected))
        threads = config.threads or (cores() // jobs if jobs > 1 else None)
        tasks = [status.task for status in selected]
        stop_signal = run_tasks(grid, tasks, jobs, _gpus(config.gpus), threads)
        statuses = grid_statuses(grid)
    _report(grid, statuses, config.grid)
    if stop_signal:
        sys.exit(128 + stop_signal)
    if any(status.state == TaskState.FAILED for status in statuses):
        sys.exit(EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A task's process and its GPUs."""

    task: Task
    process: subprocess.Popen[bytes]
    gpus: tuple[str, ...]


class StopRequest:
    """Counts SIGINT and SIGTERM inside the block, in place of their usual effect."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
        self.count += 1


def run_tasks(
    grid: Grid, tasks: Sequence[Task], jobs: int, gpus: Sequence[str], threads: int | None = None
) -> int:
    """Run `tasks`, at most `jobs` at a time, each on its own GPUs if there are any.

    Tasks that set no threads themselves get `threads`; None leaves it to the program.
    Returns the number of the signal that stopped them, or 0 without one.
    """
    tasks_file = grid.launch_folder / "local.json"
    freeze(grid, tasks_file)
    waiting, running, free = list(tasks), list[RunningTask](), list(gpus)
    signalled = 0.0  # when, by the monotonic clock
    for task in tasks:
        _check_gpus(task, gpus)
    with StopRequest() as stop, progress_bar() as bar:
        shown = bar.add_task(grid.name, total=len(tasks), note="")
        while running or (waiting and not stop.number):
            while waiting and not stop.number and len(running) < jobs:
                needed = min(waiting[0].resources.gpus, len(gpus))
                if needed > len(free):
                    break
                taken, free = tuple(free[:needed]), free[needed:]
                task = waiting.pop(0)
                flags = thread_flags(task, threads, processes=max(1, len(taken)))
                running.append(_start(grid, task, flags, tasks_file, taken, bool(gpus)))
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                free += one.gpus
                _finish(grid, one)
                bar.advance(shown)
            bar.update(shown, note=", ".join(one.task.name for one in running)[:60])
            if stop.number and time.monotonic() - signalled > _SIGNAL_SECONDS:
                if not signalled:
                    console.print("asking the running tasks to save; press again to kill them")
                signalled = time.monotonic()
                _signal(running, signal.SIGTERM if stop.count == 1 else signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
    return stop.number


def thread_flags(task: Task, threads: int | None, processes: int = 1) -> list[str]:
    """Flags that give `task` its share of cores, unless its settings or its recipe do."""
    if threads is None:
        return []
    names = thread_settings(find_program(task.program))
    names = [name for name in names if name not in task.values]
    return command_flags(dict.fromkeys(names, max(1, threads // processes)))


def _start(
    grid: Grid,
    task: Task,
    flags: Sequence[str],
    tasks_file: Path,
    gpus: tuple[str, ...],
    has_gpus: bool,
) -> RunningTask:
    line = f"{local_start(find_program(task.program), len(gpus), _free_port())} "
    line += shlex.join([*task.command, *flags])
    if grid.after_task:
        line += f" && {sys.executable} -m launch.task after {shlex.quote(str(tasks_file))} "
        line += str(task.index)
    environment = dict(os.environ) | {"PYTHONUNBUFFERED": "1"}
    if has_gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    log_file = grid.log(task)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            ["bash", "-c", line],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches launch.local only, which sends SIGTERM
        )
    record_start(grid, task, process.pid)
    _print(f"started {task.name}")
    return RunningTask(task, process, gpus)


def _finish(grid: Grid, one: RunningTask) -> None:
    code = one.process.returncode
    outcome = record_end(grid, one.task, code if code >= 0 else 128 - code)
    _print(f"{outcome.state} {one.task.name}{': ' + outcome.reason if outcome.reason else ''}")


def _print(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)


def _signal(running: Sequence[RunningTask], number: signal.Signals) -> None:
    for one in running:
        try:
            os.killpg(one.process.pid, number)
        except ProcessLookupError:
            continue


def _gpus(given: str | None) -> list[str]:
    """The numbers of the GPUs to use; empty without any."""
    given = given if given is not None else os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [number.strip() for number in given.split(",") if number.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    lines = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))]


def _check_gpus(task: Task, gpus: Sequence[str]) -> None:
    if gpus and task.resources.gpus > len(gpus):
        raise UserError(f"{task.name} needs {task.resources.gpus} GPUs; there are {len(gpus)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _report(grid: Grid, statuses: Sequence[TaskStatus], path: Path) -> None:
    print(f"{grid.name}: {len(statuses)} tasks: {format_counts(statuses)}")
    failed = [status for status in statuses if status.state == TaskState.FAILED]
    for status in failed:
        print(f"failed {status.task.name}: {status.detail}  (log: {grid.log(status.task)})")
    if failed:
        _print(f"again: python -m launch.local {shlex.quote(str(path))} --retry-failed")


if __name__ == "__main__":
    main()
