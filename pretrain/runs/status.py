"""`status.json`: the state of a run, for other programs to read at any time. Imports no torch.

`accelerate launch` exits with 1 whatever its trainer exited with, so a launcher reads the state of
a run here.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from micrograph.atomic import write_atomically
from micrograph.cli import EXIT_INTERRUPTED, UserError

STATUS_NAME = "status.json"


class RunState(StrEnum):
    """The states of a run."""

    RUNNING = "running"  # also left behind by a killed run, with an `updated` that grows old
    INTERRUPTED = "interrupted"  # asked to stop, and saved: the same command resumes
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """How a run is doing, as of `updated`."""

    state: RunState
    reason: str = ""  # why it is no longer running
    epoch: int = 0  # completed
    epochs: int = 0  # the upper bound; early stopping may come first; 0: there is none
    step: int = 0  # completed, of runs that count in steps
    steps: int = 0  # their upper bound
    best_top1: float | None = None  # in [0, 1]; None before the first validation
    best_epoch: int = 0
    converged: bool | None = None  # of the best epoch; None before the first validation
    eta_seconds: float | None = None  # at most, to the last epoch; None if unknown
    updated: float = 0.0  # Unix time in seconds


def write_status(folder: Path, status: Status) -> None:
    """Write `status` to a run's folder, replacing the last one."""
    text = json.dumps(asdict(status), indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_atomically(folder / STATUS_NAME, text.encode())


@contextmanager
def record_interruption(folder: Path) -> Iterator[None]:
    """Wrap slow start-up work: a stop here is recorded as interrupted, not failed.

    Of several processes, the first writes the status.
    """
    try:
        yield
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED and os.environ.get("RANK", "0") == "0":
            before = read_status(folder) or Status(state=RunState.INTERRUPTED)
            folder.mkdir(parents=True, exist_ok=True)
            after = replace(
                before,
                state=RunState.INTERRUPTED,
                reason="asked to stop before it began",
                updated=time.time(),
            )
            write_status(folder, after)
        raise


def outcome(finished: str, error: BaseException | None) -> tuple[RunState, str]:
    """State and reason of a run that has ended by `error`, or without one as `finished` says."""
    if error is None:
        return RunState.FINISHED, finished
    if isinstance(error, KeyboardInterrupt):
        return RunState.INTERRUPTED, "stopped from the keyboard"
    if isinstance(error, SystemExit):
        if error.code == EXIT_INTERRUPTED:
            return RunState.INTERRUPTED, "asked to stop"
        return RunState.FAILED, "another process failed"
    known = isinstance(error, UserError)
    return RunState.FAILED, str(error) if known else f"{type(error).__name__}: {error}"


def read_status(folder: Path) -> Status | None:
    """The status of the run in `folder`; None if there is none yet.

    Raises `UserError` when the file contains something else.
    """
    path = folder / STATUS_NAME
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in fields(Status)}
        values = {name: value for name, value in content.items() if name in known}
        return Status(**values | {"state": RunState(content["state"])})
    except FileNotFoundError:
        return None
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
