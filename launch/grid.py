"""Print the tasks of a grid file.

python -m launch.grid GRID [--index N] [--json]      GRID: a YAML file, or a frozen tasks.json
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from launch.tasks.grid import load_grid
from launch.tasks.task_list import find_task, task_record
from micrograph.cli import program
from micrograph.settings import Positional, load_config


@dataclass(frozen=True, kw_only=True, slots=True)
class GridConfig:
    """Print the tasks of a grid."""

    grid: Annotated[Path, Positional, "YAML file of the grid, or a frozen tasks.json"]
    index: Annotated[int | None, "print the command line of this task only [all]"] = None
    json: Annotated[bool, "print everything known about the tasks, as JSON"] = False


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(GridConfig, argv)
    grid = load_grid(config.grid)
    tasks = grid.tasks if config.index is None else (find_task(grid, config.index),)
    if config.json:
        records = [task_record(task) for task in tasks]
        print(json.dumps(records if config.index is None else records[0], indent=1))
    elif config.index is not None:
        print(shlex.join(tasks[0].command))
    else:
        for task in tasks:
            print(f"{task.index:4d}  {task.name:32s}  {shlex.join(task.command)}")


if __name__ == "__main__":
    main()
