"""The programs that tasks run: how each is started, where it puts its results, how it stands.

Programs are known by name and by what they leave in their folder; none is imported. A settings
class is loaded by its name, to find a misspelt setting before a cluster has queued the task.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pretrain.inits import resolve_init
from shards.cli import UserError
from shards.settings import build_config, find_recipe, nearest
from shards.stores import is_url

Launcher = Literal["accelerate", "python"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """How one program is started and read."""

    launcher: Launcher
    settings: str  # "module:Class" of its settings; the module imports no torch
    input_setting: str  # what it learns from: a path or a URL
    folder_setting: str = "run_dir"
    # A file of its folder that is there only when all is done; None: it writes a status.json.
    result_name: str | None = None


PROGRAMS: dict[str, Program] = {
    "pretrain.train": Program(
        launcher="accelerate", settings="pretrain.config:TrainConfig", input_setting="shards"
    ),
    "downstream.segment": Program(
        launcher="python",
        settings="downstream.config:SegmentConfig",
        input_setting="data",
        result_name="results.json",
    ),
    "downstream.adapt": Program(
        launcher="python",
        settings="downstream.uda.config:AdaptConfig",
        input_setting="study",
        result_name="results.json",
    ),
}


def find_program(name: str) -> Program:
    """The row of `name`. Raises `UserError` naming the nearest program."""
    try:
        return PROGRAMS[name]
    except KeyError:
        like = nearest(name, PROGRAMS)
        hint = f"nearest is {like!r}" if like else f"there are {', '.join(PROGRAMS)}"
        raise UserError(f"unknown program {name!r}; {hint}") from None


def check_settings(program: Program, values: Mapping[str, Any]) -> None:
    """Raise `UserError` for settings that the program would refuse."""
    config = build_config(_settings_class(program), values)
    resolve_init(config.init)  # every program has one; a path need not be there yet


def absent_input(program: Program, values: Mapping[str, Any]) -> str | None:
    """What the program is to learn from, where that is no URL and is not here."""
    given = str(getattr(build_config(_settings_class(program), values), program.input_setting))
    return None if is_url(given) or find_recipe(Path(given)).exists() else given


def thread_settings(program: Program) -> list[str]:
    """The settings by which the program is told how many threads to use; each is per process."""
    known = {field.name for field in fields(_settings_class(program))}
    return [name for name in ("threads", "loader_threads") if name in known]


def command_flags(values: Mapping[str, Any]) -> list[str]:
    """The command line flags that stand for `values`."""
    flags = []
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, (list, tuple)):
            flags += [flag, *(str(item) for item in value)]
        else:
            flags += [flag, "none" if value is None else str(value)]
    return flags


def _settings_class(program: Program) -> Any:
    module, _, name = program.settings.partition(":")
    return getattr(importlib.import_module(module), name)
