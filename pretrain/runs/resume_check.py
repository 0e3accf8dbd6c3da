"""The check that a folder holds the same run: the same data, and settings that may differ only
where their marks say so.

Imports no torch.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from micrograph.cli import UserError, console
from micrograph.setting_marks import Mark, marked
from micrograph.settings import build_config, read_recipe
from pretrain.runs.run_folder import RunPaths, read_data, read_results


def check_same_settings(
    folder: Path, config: Any, *, finished: bool = False, fixed: Collection[str] = ()
) -> None:
    """Raise `UserError` when the folder holds a run with settings that this one may not change.

    `config` is a settings dataclass; marked fields may change (`micrograph.setting_marks`), except
    those `fixed`, and the length of a run only until it has `finished`. A folder without a run
    passes.
    """
    path = RunPaths(folder).config
    if not path.exists():
        return
    cls = type(config)
    before = build_config(cls, read_recipe(path))
    free = marked(cls, Mark.FREE_ON_RESUME) | (
        frozenset() if finished else marked(cls, Mark.LENGTH)
    )
    for name in cls.__dataclass_fields__:
        old, new = getattr(before, name), getattr(config, name)
        if old != new and (name not in free or name in fixed):
            raise UserError(
                f"{folder} holds a run with {name} {old}, not {new}; choose another --run-dir, or "
                "delete that folder"
            )


def check_same_data(folder: Path, trained_on: str, found: str, place: str) -> None:
    """Raise `UserError` when two hashes of the data differ; `place` names where they are now."""
    if trained_on != found:
        raise UserError(
            f"{folder} was trained on other images or labels than {place} now holds; choose "
            "another --run-dir, or delete that folder"
        )


def finished_results(
    folder: Path, config: Any, data_sha256: Callable[[], str], place: str
) -> dict[str, Any] | None:
    """The results of this run if it has finished, else None.

    Raises `UserError` if the folder holds a run with other settings, or on other data than `place`
    now holds.
    """
    paths = RunPaths(folder)
    finished = paths.results.exists()
    check_same_settings(folder, config, finished=finished)
    if paths.data.exists():
        check_same_data(folder, read_data(folder)["sha256"], data_sha256(), place)
    if not finished:
        return None
    console.print(f"{folder} is finished", markup=False)
    return read_results(folder)
