"""Which images a command line means, and what their outputs are called. Imports no torch."""

import glob
from collections.abc import Sequence
from pathlib import Path

from pretrain.card import CARD_NAME
from pretrain.registry.names import is_name
from shards.cli import UserError
from shards.sources import is_image_name
from shards.stores import natural_key


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Runs, images and flags of `RUN … IMAGE … --flag …`.

    A run is a folder with a card, or what only a registry can mean.
    """
    given, flags = leading_arguments(arguments)
    runs = [name for name in given if _is_run(name)]
    return runs, [name for name in given if name not in runs], flags


def leading_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before the first flag, and the rest."""
    names = list(arguments)
    first_flag = next((i for i, name in enumerate(names) if name.startswith("-")), len(names))
    return names[:first_flag], names[first_flag:]


def find_images(names: Sequence[str]) -> list[Path]:
    """Files, folders (not their subfolders) and patterns, each once, as a person would list them.

    Raises `UserError` for what is not there, holds no images, or would be given one output name.
    """
    found: dict[Path, None] = {}
    for name in names:
        for path in _expand(name):
            found.setdefault(path)
    stems: dict[str, Path] = {}
    for path in found:
        other = stems.setdefault(path.stem, path)
        if other != path:
            raise UserError(
                f"{other} and {path} would both be called {path.stem}; predict them into two "
                "folders, or rename one"
            )
    return list(found)


def _is_run(name: str) -> bool:
    if Path(name).exists():
        return (Path(name) / CARD_NAME).is_file()
    return is_name(name) and not is_image_name(name)  # x.tif would be a name too


def _expand(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        files = [file for file in path.iterdir() if is_image_name(file.name)]
        if not files:
            raise UserError(f"no images in {path} (subfolders are not looked into)")
        return sorted(files, key=lambda file: natural_key(file.name))
    if path.is_file():
        return [path]
    matches = [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207 any root
    files = [match for match in matches if match.is_file() and is_image_name(match.name)]
    if not files:
        raise UserError(f"no image {name!r}, and no finished run of downstream.segment either")
    return sorted(files, key=lambda file: natural_key(str(file)))
