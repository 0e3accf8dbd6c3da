"""One task, seen from inside its job: what the sbatch script calls before and after the program.

    python -m launch.task start|log|after|end TASKS INDEX [--code N]

start    prints the command line; nothing when the task is finished already
log      prints where its output goes
after    runs the grid's `after_task` commands; their exit code is its own
end      prints what the exit code N of the program came to: finished, interrupted or failed
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.attempts import begin, end
from launch.grid import load_grid
from launch.state import task_state
from launch.tasks import Grid, Task, fill_in, find_task
from shards.cli import ArgumentParser, UserError, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description="One task of a grid, seen from inside its job.")
    parser.add_argument("step", choices=("start", "log", "after", "end"))
    parser.add_argument("tasks", type=Path, help="the frozen grid (or its YAML)")
    parser.add_argument("index", type=int)
    parser.add_argument("--code", type=int, help="exit code of the program, for end")
    arguments = parser.parse_args(argv)
    grid = load_grid(arguments.tasks)
    task = find_task(grid, arguments.index)
    if arguments.step == "log":
        log = grid.log(task)
        log.parent.mkdir(parents=True, exist_ok=True)
        print(log)
    elif arguments.step == "start":
        if task_state(grid, task).kind != "done":
            begin(grid, task, os.getppid())
            print(shlex.join(task.command))
    elif arguments.step == "after":
        sys.exit(run_after_task(grid, task))
    else:
        if arguments.code is None:
            raise UserError("end needs --code")
        verdict, reason = end(grid, task, arguments.code)
        print(verdict)
        if reason:
            print(f"{task.name} {verdict}: {reason}", file=sys.stderr)


def run_after_task(grid: Grid, task: Task) -> int:
    """Run the commands that follow a finished task; returns the first exit code that is not 0."""
    # `python` is the one that runs this, whether its environment was activated or not.
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
