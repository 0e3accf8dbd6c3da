"""The programs that tasks can run: how each is started, its settings, and its result.

No program is imported, only its settings class, to find a wrong setting before a task is queued.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from micrograph.cli import UserError
from micrograph.remote_files import is_url
from micrograph.settings import build_config, find_recipe, nearest_hint
from pretrain.network.init import resolve_init

Launcher = Literal["accelerate", "python"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """How to start one program and find its results."""

    launcher: Launcher
    settings: str  # "module:Class" of its settings; the module imports no torch
    input_setting: str  # the data it trains on: a path or a URL
    folder_setting: str = "run_dir"
    # The file in its folder that is written last; None: it writes a status.json.
    result_name: str | None = None


PROGRAMS: dict[str, Program] = {
    "pretrain.train": Program(
        launcher="accelerate", settings="pretrain.config:TrainConfig", input_setting="shards"
    ),
    "downstream.segment": Program(
        launcher="python",
        settings="downstream.finetune.config:SegmentConfig",
        input_setting="data",
        result_name="results.json",
    ),
    "downstream.adapt": Program(
        launcher="python",
        settings="downstream.adaptation.config:AdaptConfig",
        input_setting="study",
        result_name="results.json",
    ),
}


def find_program(name: str) -> Program:
    """Look up a program. Raises `UserError` naming the nearest one."""
    if name not in PROGRAMS:
        raise UserError(f"unknown program {name!r}; {nearest_hint(name, PROGRAMS)}")
    return PROGRAMS[name]


def check_settings(program: Program, values: Mapping[str, Any]) -> None:
    """Raise `UserError` for settings that the program would reject."""
    config = build_config(_settings_class(program), values)
    resolve_init(config.init)  # every program has one; a path may be missing yet


def missing_input(program: Program, values: Mapping[str, Any]) -> str | None:
    """The path of the program's training data if it does not exist here."""
    given = str(getattr(build_config(_settings_class(program), values), program.input_setting))
    return None if is_url(given) or find_recipe(Path(given)).exists() else given


def thread_settings(program: Program) -> list[str]:
    """The program's settings for numbers of threads, each per process."""
    known = {field.name for field in fields(_settings_class(program))}
    return [name for name in ("threads", "loader_threads") if name in known]


def command_flags(values: Mapping[str, Any]) -> list[str]:
    """Format settings as command line flags."""
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
