"""One task inside its job: what the sbatch script calls before and after the program.

    python -m launch.task start|log|after|end TASKS INDEX [--code N]

start    prints the command line; nothing if the task has finished already
log      prints where its output goes
after    runs the grid's `after_task` commands, and exits with the code of the first that fails
end      records that the program exited with code N; prints `requeue` if it saved and can continue
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from launch.state.attempts import record_end, record_start
from launch.state.state import TaskState, task_status
from launch.tasks.grid import load_grid
from launch.tasks.task_list import Grid, Task, fill_in, find_task
from micrograph.cli import UserError, program
from micrograph.settings import Positional, load_config
from pretrain.runs.status import RunState


@dataclass(frozen=True, kw_only=True, slots=True)
class StepConfig:
    """Do one step of a task inside its job."""

    step: Annotated[Literal["start", "log", "after", "end"], Positional, "start, log, after or end"]
    tasks: Annotated[Path, Positional, "the frozen grid, or its YAML file"]
    index: Annotated[int, Positional, "number of the task"]
    code: Annotated[int | None, "for end: exit code of the program"] = None


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(StepConfig, argv)
    grid = load_grid(config.tasks)
    task = find_task(grid, config.index)
    if config.step == "log":
        log = grid.log(task)
        log.parent.mkdir(parents=True, exist_ok=True)
        print(log)
    elif config.step == "start":
        if task_status(grid, task).state != TaskState.FINISHED:
            record_start(grid, task, os.getppid())
            print(shlex.join(task.command))
    elif config.step == "after":
        sys.exit(run_after_task(grid, task))
    else:
        if config.code is None:
            raise UserError("end needs --code")
        outcome = record_end(grid, task, config.code)
        reason = f": {outcome.reason}" if outcome.reason else ""
        print(f"{task.name} {outcome.state}{reason}", file=sys.stderr)
        if outcome.state == RunState.INTERRUPTED and outcome.saved:
            print("requeue")


def run_after_task(grid: Grid, task: Task) -> int:
    """Run the commands after a finished task; returns the first exit code other than 0."""
    # `python` is the one that runs this, whether or not its environment was activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    for command in grid.after_task:
        line = fill_in(command, task)
        print(f"$ {line}", flush=True)
        code = subprocess.run(line, shell=True, env={**os.environ, "PATH": path}).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    main()
