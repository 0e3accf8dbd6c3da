"""Find the runs and images that a command line names. Imports no torch."""

import glob
from collections.abc import Sequence
from pathlib import Path

from micrograph.cli import UserError
from micrograph.remote_files import natural_key
from pretrain.cards.encoder_card import CARD_NAME
from pretrain.cards.entry_names import is_name
from shards.sources.listing import is_image_name


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Split `RUN … IMAGE … --flag …` into runs, images and flags.

    A run is a folder with a card, or a name that can only be a registry's.
    """
    end = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    runs = [name for name in arguments[:end] if _is_run(name)]
    images = [name for name in arguments[:end] if name not in runs]
    return runs, images, list(arguments[end:])


def find_images(names: Sequence[str]) -> list[Path]:
    """Expand files, folders (without subfolders) and patterns, in natural order, each file once.

    Raises `UserError` if a name matches no image, or if two images have the same stem.
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
                f"{other} and {path} have the same name {path.stem}; rename one or use two output "
                "folders"
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
            raise UserError(f"no images in {path} (subfolders are not searched)")
        return sorted(files, key=lambda file: natural_key(file.name))
    if path.is_file():
        return [path]
    matches = [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207 any root
    files = [match for match in matches if match.is_file() and is_image_name(match.name)]
    if not files:
        raise UserError(f"{name!r} is neither an image nor a finished run of downstream.segment")
    return sorted(files, key=lambda file: natural_key(str(file)))
