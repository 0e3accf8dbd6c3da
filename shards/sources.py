"""Where micrographs come from: a folder of class folders, listed in a fixed order."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shards.cli import UserError, warn

# Suffixes that Pillow decodes and that micrographs come in. A file with another suffix is rejected
# by name, unread: corpora hold notes, tables and vendors' raw files beside their images.
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file offered as a micrograph. `path` is relative to the source folder, with `/`."""

    path: str
    label: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Source:
    """A labelled corpus as its owner has it."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[SourceFile, ...]


def scan_folder(root: Path) -> Source:
    """List a folder-per-class corpus; files in nested folders belong to the first level.

    Hidden files and folders are skipped. Classes and files come in natural order, so that the
    result is the same on every machine. Raises `UserError` when `root` does not have this form.
    """
    if not root.is_dir():
        raise UserError(
            f"no such folder: {root}; --source takes a folder with one folder per class"
        )
    folders = sorted((p for p in root.iterdir() if p.is_dir() and _visible(p.name)), key=_natural)
    if not folders:
        raise UserError(f"no class folders in {root}; put the images of each class into a folder")
    stray = [p.name for p in root.iterdir() if p.is_file() and is_image_name(p.name)]
    if stray:
        warn(f"{len(stray)} images lie in {root} itself, in no class folder; they are left out")
    files: list[SourceFile] = []
    for label, folder in enumerate(folders):
        found = list(_class_files(root, folder, label))
        if not any(is_image_name(file.path) for file in found):
            raise UserError(
                f"class folder {folder} has no images; add some or take the folder away"
            )
        files.extend(found)
    return Source(root, tuple(folder.name for folder in folders), tuple(files))


def is_image_name(path: str) -> bool:
    """Whether the file's suffix is that of an image format we read."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def _class_files(root: Path, folder: Path, label: int) -> Iterator[SourceFile]:
    paths = []
    for base, subfolders, names in os.walk(folder, onerror=_unreadable):
        subfolders[:] = [name for name in subfolders if _visible(name)]
        paths += [Path(base, name) for name in names if _visible(name)]
    for path in sorted(paths, key=_natural):
        try:
            stat = path.stat()
        except OSError as error:  # a link that leads nowhere, say
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        name = path.relative_to(root).as_posix()
        yield SourceFile(name, label, stat.st_size, stat.st_mtime_ns)


def _unreadable(error: OSError) -> None:
    raise UserError(f"cannot read folder {error.filename}: {error.strerror}") from error


def _visible(name: str) -> bool:
    return not name.startswith(".")


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """`img2` before `img10`; the plain name decides between equals such as `img2` and `img02`."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.as_posix()
