"""Where a run stands, in one small file that others may read at any time. Imports no torch.

`accelerate launch` ends with 1 whatever its trainer ended with, so who requeues runs asks here.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

from pretrain.atomic import write_atomically
from shards.cli import UserError

STATUS_NAME = "status.json"

# interrupted: asked to stop, and saved; the same command goes on. A run that was killed outright
# leaves "running" behind, with an `updated` that grows old.
State = Literal["running", "interrupted", "finished", "failed"]

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: saved; the same command goes on


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """How a run is doing, as of `updated`."""

    state: State
    reason: str = ""  # why it is no longer running
    epoch: int = 0  # completed
    epochs: int = 0  # the upper bound; early stopping may come first
    best_top1: float | None = None  # in [0, 1]; None before the first validation
    best_epoch: int = 0
    converged: bool | None = None  # of the best epoch; None before the first validation
    eta_seconds: float | None = None  # at most, to the last epoch; None while it is not known
    updated: float = 0.0  # Unix time in seconds


def write_status(folder: Path, status: Status) -> None:
    """Write `status` into a run's folder, in place of the one before."""
    text = json.dumps(asdict(status), indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_atomically(folder / STATUS_NAME, text.encode())


@contextmanager
def told_if_stopped(folder: Path) -> Iterator[None]:
    """Around what comes before a run has opened, and may take long: a stop is no failure.

    Of several processes, the first tells.
    """
    try:
        yield
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED and os.environ.get("RANK", "0") == "0":
            before = read_status(folder) or Status(state="interrupted")
            folder.mkdir(parents=True, exist_ok=True)
            reason = "asked to stop before it began"
            write_status(
                folder, replace(before, state="interrupted", reason=reason, updated=time.time())
            )
        raise


def how_it_ended(finished: str, error: BaseException | None) -> tuple[State, str]:
    """State and reason of a run that ended so; `finished` says why, where it came to its end."""
    if error is None:
        return "finished", finished
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "stopped from the keyboard"
    if isinstance(error, SystemExit):
        if error.code == EXIT_INTERRUPTED:
            return "interrupted", "asked to stop"
        return "failed", "another process failed"
    told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return "failed", told


def read_status(folder: Path) -> Status | None:
    """The status of the run in `folder`; None when there is none (yet).

    Raises `UserError` when the file holds something else.
    """
    path = folder / STATUS_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in fields(Status)}
        status = Status(**{name: value for name, value in content.items() if name in known})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if status.state not in get_args(State):
        raise UserError(f"{path} has the unknown state {status.state!r}")
    return status
