"""Locks between processes: one at a time in a folder. A lock ends with its process, even if killed.

`filelock.lock_descriptor` is `flock` on Linux and macOS: `filelock.FileLock` without its fall-back
to a marker file, which a killed process would leave behind. On NFS the lock of a file holds on all
nodes, the lock of a folder itself only on its own. Lustre has locks where it is mounted with
`-o flock`; without, this raises. A forked child holds its parent's lock too.
"""

import os
from contextlib import ExitStack
from pathlib import Path

from filelock import lock_descriptor

from micrograph.cli import UserError, console


def lock_folder(
    folder: Path, name: str | None = ".lock", *, wait: bool = False, hint: str = "wait for it"
) -> ExitStack:
    """Hold `folder` until the answer is closed or this process ends; the folder is made if need be.

    `name`: the lock file in it; None locks the folder itself, for one that is emptied or renamed.
    `wait`: for a process at work there; else that raises `UserError`, which ends with `hint`.
    Raises `UserError` too where the folder cannot be written or its file system has no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # For writing: NFS refuses an exclusive lock on a file that is open for reading.
        flags = os.O_RDWR | os.O_CREAT if name else os.O_RDONLY
        descriptor = os.open(folder / name if name else folder, flags, 0o666)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        try:
            held = lock_descriptor(descriptor, blocking=False)
            if not held and wait:
                console.print(f"waiting for another process in {folder} …", markup=False)
                held = lock_descriptor(descriptor)
        except OSError as error:
            raise UserError(
                f"cannot lock {folder}: {error.strerror}; choose a folder on another file system"
            ) from error
        if not held:
            raise UserError(f"another process is at work in {folder}; {hint}")
        return stack.pop_all()
