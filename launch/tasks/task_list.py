"""A grid and its tasks, and the file that freezes them: editing a grid changes no queued job."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launch.tasks.programs import command_flags
from launch.tasks.resources import Resources, SlurmSettings
from micrograph.atomic import write_atomically
from micrograph.cli import UserError
from micrograph.settings import build_config, read_recipe, to_json
from shards.shard_format.schema import read_versioned

SCHEMA_VERSION = 1

# The folder of launch's own files under a grid's root; no task's name begins with an underscore.
LAUNCH_FOLDER = "_launch"

Point = Mapping[str, Any]  # one value for each axis


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One run of a program: a name, settings and resources."""

    index: int
    name: str
    program: str
    folder: Path  # the program's run folder
    point: Point  # the value (or label) on each axis
    config: Path | None  # recipe of the program
    settings: Mapping[str, Any]  # on top of the recipe
    resources: Resources

    @property
    def values(self) -> dict[str, Any]:
        """All settings, with those of the recipe. Raises `UserError` if it cannot be read."""
        return {**(read_recipe(self.config) if self.config else {}), **self.settings}

    @property
    def command(self) -> tuple[str, ...]:
        """Module and flags, to follow `python -m` or `accelerate launch --module`."""
        recipe = ("--config", str(self.config)) if self.config else ()
        return (self.program, *recipe, *command_flags(self.settings))


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Tasks that belong together, and the folder of their results."""

    name: str
    root: Path
    axes: Mapping[str, tuple[str, ...]]  # labels, in the order of the file
    tasks: tuple[Task, ...]
    slurm: SlurmSettings = field(default_factory=SlurmSettings)
    after_task: tuple[str, ...] = ()  # commands after each finished task, as part of it
    after_all: tuple[str, ...] = ()  # commands of the last job, after all tasks

    @property
    def launch_folder(self) -> Path:
        """The folder of launch's own files."""
        return self.root / LAUNCH_FOLDER

    def log(self, task: Task) -> Path:
        """The file of a task's output."""
        return self.launch_folder / "logs" / f"{task.name}.log"


def find_task(grid: Grid, index: int) -> Task:
    """The task with number `index`."""
    if not 0 <= index < len(grid.tasks):
        raise UserError(f"{grid.name} has tasks 0 to {len(grid.tasks) - 1}, not {index}")
    return grid.tasks[index]


def fill_in(command: str, task: Task) -> str:
    """Fill in {folder}, {name} and {AXIS} of a command of `after_task`."""
    values = {**task.point, "folder": task.folder, "name": task.name}
    try:
        return command.format_map({key: shlex.quote(str(value)) for key, value in values.items()})
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        known = ", ".join(f"{{{key}}}" for key in values)
        raise UserError(
            f"`after_task` knows {known}, not {error}, in {command!r} (double the braces of the "
            "shell: ${{HOME}})"
        ) from error


def task_record(task: Task) -> dict[str, Any]:
    """A task and its command line as JSON values."""
    return to_json(task) | {"command": list(task.command)}


def freeze(grid: Grid, path: Path) -> None:
    """Write a grid with all its tasks to a JSON file."""
    content = {"schema_version": SCHEMA_VERSION, **asdict(grid)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(content, indent=1, default=str) + "\n").encode())


def read_frozen(path: Path) -> Grid:
    """Read what `freeze` wrote. Raises `UserError` if it is missing or damaged."""
    content = read_versioned(path, SCHEMA_VERSION, absent=f"no grid {path}")
    try:
        tasks = tuple(
            Task(
                **task
                | {
                    "folder": Path(task["folder"]),
                    "config": Path(task["config"]) if task["config"] else None,
                    "resources": build_config(Resources, task["resources"]),
                }
            )
            for task in content["tasks"]
        )
        return Grid(
            name=content["name"],
            root=Path(content["root"]),
            axes={axis: tuple(labels) for axis, labels in content["axes"].items()},
            tasks=tasks,
            slurm=build_config(SlurmSettings, content["slurm"]),
            after_task=tuple(content["after_task"]),
            after_all=tuple(content["after_all"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
