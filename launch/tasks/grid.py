"""Reads a grid file: one of our programs, run once for each combination of settings.

name: demo                          axes: what varies; there is a task for each combination
program: pretrain.train               arch: [resnet18, resnet50]      values of the setting `arch`
root: runs/demo                       start: {cold: {init: random}, warm: {init: imagenet}}
config: recipe.yaml                 exclude: [{arch: resnet50, start: cold}]
settings: {epochs: 100}             include: [{arch: vgg11, start: cold}]
resources: {gpus: 1, time: "8:00:00"}
overrides: [{match: {arch: resnet50}, settings: {batch_size: 512}, resources: {time: "1-0"}}]

An axis lists the values of one setting, or maps labels to settings; a `config` among these is the
recipe of the label's tasks.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from launch.tasks.programs import check_settings, find_program
from launch.tasks.resources import Resources, SlurmSettings, check_time
from launch.tasks.task_list import Grid, Point, Task, fill_in, read_frozen
from micrograph.cli import UserError
from micrograph.settings import build_config, check_keys, nearest_hint, read_recipe

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_NAME_LENGTH = 120  # names files and folders, with a suffix; file systems allow 255 bytes


def load_grid(path: Path) -> Grid:
    """Read a grid from its YAML file, or from the tasks.json of a submission."""
    return read_frozen(path) if path.suffix == ".json" else build_grid(path)


_KEYS = (
    *("name", "program", "root", "config", "settings", "axes", "exclude", "include", "task"),
    *("resources", "overrides", "slurm", "after_task", "after_all"),
)


def build_grid(path: Path) -> Grid:
    """Read a grid file and check every task of it. Raises `UserError` naming what is wrong."""
    content = _read(path)
    try:
        return _build(content, path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_recipe(path)
    except UserError as error:
        raise UserError(str(error).replace("recipe", "grid", 1)) from error


def _build(content: dict[str, Any], path: Path) -> Grid:
    check_keys("grid", content, _KEYS)
    if "program" not in content or "axes" not in content:
        raise UserError("a grid needs at least `program` and `axes`")
    name = str(content.get("name") or path.stem)
    if not _NAME.fullmatch(name):
        raise UserError(
            f"name {name!r} cannot name a folder and a job; use letters, digits and . _ + - in "
            "`name`"
        )
    root = Path(str(content.get("root") or Path("runs") / name))
    axes = {str(key): _axis(str(key), values) for key, values in _mapping(content, "axes").items()}
    points = _points(axes, content)
    _check_overrides(content, axes, points)
    tasks = tuple(_task(index, point, axes, content, root) for index, point in enumerate(points))
    _check_distinct(tasks)
    slurm = build_config(SlurmSettings, _mapping(content, "slurm"))
    grid = Grid(
        name=name,
        root=root,
        axes={key: tuple(values) for key, values in axes.items()},
        tasks=tasks,
        slurm=slurm,
        after_task=_commands(content, "after_task"),
        after_all=_commands(content, "after_all"),
    )
    for task in tasks:
        _check(task, grid)
    return grid


def _axis(name: str, values: Any) -> dict[str, dict[str, Any]]:
    """Map each label of an axis to its settings."""
    if isinstance(values, Mapping):
        axis = {str(label): settings or {} for label, settings in values.items()}
        for label, settings in axis.items():
            if not isinstance(settings, Mapping):
                raise UserError(f"axis {name!r}: {label!r} must map settings to values")
    elif isinstance(values, list):
        axis = {_format(value): {name: value} for value in values}
        if len(axis) < len(values):
            twice = next(v for v in values if sum(_format(v) == _format(w) for w in values) > 1)
            raise UserError(f"axis {name!r} holds {twice!r} twice")
    else:
        raise UserError(f"axis {name!r} must be a list of values, or map labels to settings")
    if not axis:
        raise UserError(f"axis {name!r} is empty")
    return axis


def _points(axes: Mapping[str, Mapping[str, Any]], content: dict[str, Any]) -> list[Point]:
    """All combinations in the order of the file, without the excluded, then the included ones."""
    product = itertools.product(*(list(labels) for labels in axes.values()))
    points: list[Point] = [dict(zip(axes, labels, strict=True)) for labels in product]
    for match in _entries(content, "exclude"):
        _check_match("exclude", match, axes)
        kept = [point for point in points if not _matches_point(point, match)]
        if len(kept) == len(points):
            raise UserError(f"exclude {_format(match)} matches no task")
        points = kept
    for point in _entries(content, "include"):
        check_keys("include", point, axes)
        missing = [key for key in axes if key not in point]
        if missing:
            raise UserError(f"include {_format(point)} lacks {', '.join(missing)}")
        points.append({key: _format(point[key]) for key in axes})
    if not points:
        raise UserError("all tasks are excluded")
    return points


def _entries(content: dict[str, Any], key: str) -> list[Any]:
    entries = content.get(key) or []
    if not isinstance(entries, list):
        raise UserError(f"{key} must be a list, `- {{…}}` a line, not {_format(entries)}")
    return entries


def _check_overrides(content: dict[str, Any], axes: Iterable[str], points: Sequence[Point]) -> None:
    for override in _entries(content, "overrides"):
        check_keys("override", override, ("match", "settings", "resources"))
        match = _mapping(override, "match")
        check_keys("match", match, axes)
        if not any(_matches_point(point, match) for point in points):
            raise UserError(f"override {_format(match)} matches no task")


def _check_match(where: str, match: Any, axes: Mapping[str, Mapping[str, Any]]) -> None:
    check_keys(where, match, axes)
    for axis, wanted in match.items():
        for label in wanted if isinstance(wanted, list) else [wanted]:
            if _format(label) not in axes[axis]:
                hint = nearest_hint(_format(label), axes[axis])
                raise UserError(f"{where}: axis {axis!r} has no {label!r}; {hint}")


def _matches_point(point: Point, match: Mapping[str, Any]) -> bool:
    """Whether the point has one of the wanted labels on every axis that `match` names."""
    return all(
        point[axis] in [_format(w) for w in (wanted if isinstance(wanted, list) else [wanted])]
        for axis, wanted in match.items()
    )


def _task(
    index: int,
    point: Point,
    axes: Mapping[str, Mapping[str, Mapping[str, Any]]],
    content: dict[str, Any],
    root: Path,
) -> Task:
    settings = dict(_mapping(content, "settings"))
    resources = dict(_mapping(content, "resources"))
    for axis, label in point.items():
        # An included point may have a value that its axis does not list.
        settings |= axes[axis].get(label, {axis: label})
    for override in _entries(content, "overrides"):
        if _matches_point(point, _mapping(override, "match")):
            settings |= _mapping(override, "settings")
            resources |= _mapping(override, "resources")
    name = _task_name(point, content.get("task"))
    found = find_program(str(content["program"]))
    if found.folder_setting in settings:
        raise UserError(f"remove {found.folder_setting!r}: launch sets it to root/NAME")
    config = settings.pop("config", content.get("config"))  # no program has a setting of this name
    return Task(
        index=index,
        name=name,
        program=str(content["program"]),
        folder=root / name,
        point=point,
        config=Path(config) if config else None,
        settings=settings | {found.folder_setting: str(root / name)},
        resources=build_config(Resources, resources),
    )


def _task_name(point: Point, template: Any) -> str:
    """Fill in the template, or join the labels with dots; of a path, take the last part."""
    short = {axis: _slug(str(label)) for axis, label in point.items()}
    try:
        name = str(template).format(**short) if template else ".".join(short.values())
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"task name {template!r} does not match the axes {', '.join(point)} ({error})"
        ) from error
    if not _NAME.fullmatch(name) or len(name) > _NAME_LENGTH:
        raise UserError(f"task name {name!r} cannot name a folder; change `task`")
    return name


def _slug(label: str) -> str:
    parts = [part for part in label.split("/") if part not in ("", ".", "..")]
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", parts[-1] if parts else label).strip("-") or "none"


def _check_distinct(tasks: Iterable[Task]) -> None:
    by_name: dict[str, Task] = {}
    for task in tasks:
        if task.name in by_name:
            raise UserError(
                f"tasks {by_name[task.name].index} and {task.index} are both named {task.name!r} "
                f"({_format(by_name[task.name].point)} and {_format(task.point)}); set `task`, "
                "use labels, `AXIS: {LABEL: {SETTING: VALUE}}`, or remove one"
            )
        by_name[task.name] = task


def _check(task: Task, grid: Grid) -> None:
    try:
        check_time(task.resources, grid.slurm)
        check_settings(find_program(task.program), task.values)
        for command in grid.after_task:
            fill_in(command, task)
    except UserError as error:
        raise UserError(f"task {task.name}: {error}") from error


def _commands(content: dict[str, Any], key: str) -> tuple[str, ...]:
    commands = content.get(key, [])
    if not isinstance(commands, list) or not all(isinstance(c, str) for c in commands):
        raise UserError(f"{key} must be a list of command lines")
    return tuple(commands)


def _mapping(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise UserError(f"{key} must map names to values, not {value!r}")
    return value


def _format(value: Any) -> str:
    """Format a value as YAML on one line."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
