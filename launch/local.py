"""Runs the tasks of a grid on this machine, some at a time, without SLURM.

    python -m launch.local GRID [--jobs N] [--threads N] [--gpus 0,1] [--only NAME ...]

Tasks that run side by side share the cores evenly, unless --threads or their own settings say
otherwise. Finished ones are skipped and interrupted ones go on. Ctrl-C (or SIGTERM) asks the
running ones to save and waits for them; a second Ctrl-C kills them. Exit code: 0 all done, 1 some
failed.
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
from typing import Any

from launch.attempts import begin, end
from launch.grid import load_grid
from launch.programs import command_flags, find_program, thread_settings
from launch.selection import add_flags, chosen_tasks, set_aside
from launch.start import local_start
from launch.state import TaskState, grid_states, spell_counts
from launch.tasks import Grid, Task, freeze
from micrograph.locks import lock_folder
from shards.cli import ArgumentParser, UserError, console, cores, program, progress_bar

EXIT_FAILED = 1
_POLL_SECONDS = 0.2
_ASK_AGAIN_SECONDS = 2.0  # a trainer that is still importing torch does not hear the first time


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description="Run the tasks of a grid on this machine.")
    parser.add_argument("grid", type=Path, help="YAML file of the grid")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="tasks at a time [1]")
    help_ = "cores of a task that sets no threads itself [all; with --jobs, its share]"
    parser.add_argument("--threads", type=int, metavar="N", help=help_)
    parser.add_argument("--gpus", help="their numbers, 0,1,… [CUDA_VISIBLE_DEVICES, or all]")
    add_flags(parser)
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1 or (arguments.threads is not None and arguments.threads < 1):
        raise UserError("--jobs and --threads must be at least 1")
    grid = load_grid(arguments.grid)
    with lock_folder(grid.own, ".local.lock"):
        chosen = chosen_tasks(grid_states(grid), arguments)
        if arguments.afresh:
            for state in chosen:
                set_aside(grid, state)
        jobs = min(arguments.jobs, len(chosen))
        threads = arguments.threads or (cores() // jobs if jobs > 1 else None)
        interrupted = run_tasks(
            grid, [state.task for state in chosen], jobs, _gpus(arguments.gpus), threads
        )
        states = grid_states(grid)
    _report(grid, states, arguments.grid)
    if interrupted:
        sys.exit(128 + interrupted)
    if any(state.kind == "failed" for state in states):
        sys.exit(EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class Running:
    """A task's process and the GPUs lent to it."""

    task: Task
    process: subprocess.Popen[bytes]
    gpus: tuple[str, ...]


class Stop:
    """What SIGINT and SIGTERM have asked for inside the block."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stop":
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
    """Run `tasks`, at most `jobs` at a time and none without its GPUs (where there are any).

    Those that set no threads themselves get `threads` of them, None: as many as they like.
    Returns the number of the signal that asked to stop, or 0 when all have ended by themselves.
    """
    tasks_file = grid.own / "local.json"
    freeze(grid, tasks_file)
    waiting, running, free = list(tasks), list[Running](), list(gpus)
    asked_at = 0.0
    for task in tasks:
        _check_gpus(task, gpus)
    with Stop() as stop, progress_bar() as bar:
        shown = bar.add_task(grid.name, total=len(tasks), note="")
        while running or (waiting and not stop.number):
            while waiting and not stop.number and len(running) < jobs:
                needed = min(waiting[0].resources.gpus, len(gpus))
                if needed > len(free):
                    break
                lent, free = tuple(free[:needed]), free[needed:]
                task = waiting.pop(0)
                flags = thread_flags(task, threads, processes=max(1, len(lent)))
                running.append(_start(grid, task, flags, tasks_file, lent, bool(gpus)))
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                free += one.gpus
                _finish(grid, one)
                bar.advance(shown)
            bar.update(shown, note=", ".join(one.task.name for one in running)[:60])
            if stop.number and time.monotonic() - asked_at > _ASK_AGAIN_SECONDS:
                if not asked_at:
                    console.print("asking the running tasks to save; again to kill them")
                asked_at = time.monotonic()
                _signal(running, signal.SIGTERM if stop.count == 1 else signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
    return stop.number


def thread_flags(task: Task, threads: int | None, processes: int = 1) -> list[str]:
    """Flags that give `task` its cores; what its settings or its recipe say stands."""
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
) -> Running:
    line = f"{local_start(find_program(task.program), len(gpus), _free_port())} "
    line += shlex.join([*task.command, *flags])
    if grid.then:
        line += f" && {sys.executable} -m launch.task then {shlex.quote(str(tasks_file))} "
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
            start_new_session=True,  # Ctrl-C reaches us only; what is passed on is SIGTERM
        )
    begin(grid, task, process.pid)
    _say(f"started {task.name}")
    return Running(task, process, gpus)


def _finish(grid: Grid, one: Running) -> None:
    code = one.process.returncode
    verdict, reason = end(grid, one.task, code if code >= 0 else 128 - code)
    _say(f"{verdict} {one.task.name}{': ' + reason if reason else ''}")


def _say(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)


def _signal(running: Sequence[Running], number: signal.Signals) -> None:
    for one in running:
        try:
            os.killpg(one.process.pid, number)
        except ProcessLookupError:
            continue


def _gpus(given: str | None) -> list[str]:
    """The GPUs to lend out; none where there are none."""
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
        raise UserError(f"{task.name} wants {task.resources.gpus} GPUs; there are {len(gpus)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _report(grid: Grid, states: Sequence[TaskState], path: Path) -> None:
    print(f"{grid.name}: {len(states)} tasks: {spell_counts(states)}")
    for state in states:
        if state.kind == "failed":
            print(f"failed {state.task.name}: {state.detail}  (log: {grid.log(state.task)})")
    if any(state.kind == "failed" for state in states):
        again = f"python -m launch.local {shlex.quote(str(path))} --retry-failed"
        console.print(f"again: {again}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
