"""Upload a finished shard set to an object store: every file checked, the manifest last."""

import re
from pathlib import Path
from typing import Any

from micrograph.cli import UserError, progress
from micrograph.remote_files import filesystem
from shards.shard_format.schema import MANIFEST_NAME

_OURS = re.compile(r"(train|val)(-\d{5}\.(tar|idx)|\.npy)")


def check_is_free(url: str) -> None:
    """Raise `UserError` when `url` already holds a finished shard set, or cannot be reached."""
    fs, root = filesystem(url)
    try:
        taken = fs.exists(f"{root}/{MANIFEST_NAME}")
    except Exception as error:  # every file system has its own
        raise UserError(f"cannot reach {url}: {error}") from error
    if taken:
        raise UserError(f"{url} holds a shard set; choose another --out or delete it")


def upload(folder: Path, url: str) -> None:
    """Copy a finished set to `url`; the manifest last: a set that has one is complete.

    An interrupted upload starts again. Raises `UserError` when a file does not arrive complete.
    """
    fs, root = filesystem(url)
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    _clear(fs, root, {path.name for path in files})
    files.sort(key=lambda path: path.name == MANIFEST_NAME)
    for path in progress(files, f"upload to {url}"):
        _put(fs, path, f"{root}/{path.name}", url)


def _clear(fs: Any, root: str, names: set[str]) -> None:
    """Remove what an interrupted upload with other settings left: readers take train-*.tar."""
    for path in fs.ls(root, detail=False) if fs.exists(root) else ():
        name = path.rpartition("/")[2]
        if _OURS.fullmatch(name) and name not in names:
            fs.rm_file(path)


def _put(fs: Any, path: Path, target: str, url: str) -> None:
    try:
        fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        fs.put_file(str(path), target)
        fs.invalidate_cache()
        arrived = fs.info(target)["size"]
    except Exception as error:
        raise UserError(
            f"cannot upload {path.name} to {url}: {error}; run the same command again: "
            f"{path.parent} keeps the finished files"
        ) from error
    if arrived != path.stat().st_size:
        raise UserError(
            f"{path.name} arrived at {url} with {arrived} bytes of {path.stat().st_size}; "
            "run the same command again"
        )
