"""The work folder of a shard set: locked by one run, renamed to its final name at the end."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from micrograph.cli import UserError
from micrograph.locks import lock_folder
from micrograph.remote_files import is_url
from shards.shard_format.schema import MANIFEST_NAME
from shards.writing.upload import check_is_free, upload

SPOOL = "spool"
_SPOOL_DONE = "spool.done"  # about to be deleted
_MARK = ".shards-write"  # in a spool: everything in that work folder may be deleted


def choose_work_folder(out: str, work: Path | None, sources: Iterable[str]) -> Path:
    """The folder to work in, after checking that `out` is free. Raises `UserError`."""
    if is_url(out):
        check_is_free(out)
        work = work or Path(out.rstrip("/").rpartition("/")[2] + ".partial")
        folders = [work]
    else:
        named = Path(out)
        if named.exists() and (not named.is_dir() or any(named.iterdir())):
            raise UserError(f"{out} exists and is not empty; choose another --out or delete it")
        work = work or named.with_name(named.name + ".partial")
        folders = [named, work]
    for source in (path for path in sources if not is_url(path)):
        for folder in folders:
            if folder.resolve().is_relative_to(Path(source).resolve()):
                raise UserError(f"{folder} is inside the source {source}; choose one outside it")
    return work


@contextmanager
def lock_work_folder(folder: Path) -> Iterator[None]:
    """Lock the folder inside the block: two runs would mix their files.

    A folder with other files in it is refused: everything in a work folder is deleted.
    """
    # The folder itself: a lock file in it would be deleted, or published with the set.
    with lock_folder(folder, None, hint="wait for it, or choose another --out"):
        if not _is_ours(folder):
            raise UserError(f"{folder} holds files that no run made; choose a new or empty folder")
        (folder / SPOOL).mkdir(exist_ok=True)
        (folder / SPOOL / _MARK).touch()
        yield


def empty_but_spool(folder: Path) -> None:
    """Remove everything but the spool: a killed run may have had other settings."""
    for leftover in folder.glob("*"):
        if leftover.is_dir() and leftover.name != SPOOL:
            shutil.rmtree(leftover)
        elif leftover.name != SPOOL:
            leftover.unlink()


def publish(folder: Path, out: str) -> None:
    """Move the finished set to `out`: rename it, copy it to another disk, or upload it."""
    if is_url(out):
        upload(folder, out)
        _drop_spool(folder)
        shutil.rmtree(folder)
    else:
        _rename_or_copy(folder, Path(out))


def _is_ours(folder: Path) -> bool:
    """Whether all of it may be deleted: a run made it, or it holds nothing but empty folders."""
    if not any(path for path in folder.rglob("*") if not path.is_dir()):
        return True
    finished = folder.suffix == ".partial" and (folder / MANIFEST_NAME).exists()
    return (folder / SPOOL / _MARK).exists() or (folder / _SPOOL_DONE).exists() or finished


def _rename_or_copy(folder: Path, out: Path) -> None:
    if out.exists():
        out.rmdir()  # empty, as was checked: renaming needs the name free
    out.parent.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_dev == out.parent.stat().st_dev:
        _drop_spool(folder)
        folder.rename(out)
        return
    copied = out.with_name(out.name + ".copying")
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(folder, copied, ignore=shutil.ignore_patterns(SPOOL))
    copied.rename(out)
    shutil.rmtree(folder)  # last, with the spool: an interrupted copy continues from it


def _drop_spool(folder: Path) -> None:
    # Renamed first: a half-deleted spool must not look like a complete one.
    doomed = folder / _SPOOL_DONE
    (folder / SPOOL).rename(doomed)
    shutil.rmtree(doomed)
