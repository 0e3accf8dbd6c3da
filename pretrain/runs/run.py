"""One run on disk, seen by the process that writes it: lock, save, resume, end."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from micrograph.atomic import writing_to
from micrograph.cli import EXIT_INTERRUPTED, UserError, console, warn
from pretrain.runs.checkpoint import load_checkpoint, mark_good, save_checkpoint
from pretrain.runs.metrics_log import MetricsLog
from pretrain.runs.run_folder import RunPaths, lock_run_folder, write_config
from pretrain.runs.status import STATUS_NAME, RunState, Status, outcome, write_status


class Progress(Protocol):
    """How far a trainer is: a frozen dataclass of plain values."""

    @property
    def finished(self) -> str:
        """Why training has ended; empty while it is running."""

    @property
    def position(self) -> str:
        """For messages: `epoch 3, step 17`."""


P = TypeVar("P", bound=Progress)


class Run(Generic[P]):
    """The folder of a run while this process trains in it.

    `describe` gives the progress for `status.json`; state, reason and time are added here. A run
    that fails before `begin` leaves only its lock file, so the folder can be used again.
    """

    def __init__(
        self,
        folder: Path,
        start: P,
        describe: Callable[[P], Status],
        *,
        checkpoint_minutes: float,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder = folder
        self.metrics = MetricsLog(folder)
        self.interrupted = interrupted
        self._checkpoints = RunPaths(folder).checkpoints
        self._kind = type(start)
        self._progress = self._saved = start
        self._describe = describe
        self._checkpoint_seconds = 60 * checkpoint_minutes
        self._saved_at = time.monotonic()
        self._lock: ExitStack | None = None
        self._begun = False

    def __enter__(self) -> "Run[P]":
        self._lock = lock_run_folder(self.folder)
        self.metrics = MetricsLog(self.folder)  # no other process writes it now
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.record_outcome(error)
        self.unlock()

    def record_outcome(self, error: BaseException | None) -> None:
        """Write to `status.json` that the run has ended, by `error` if given."""
        if self._begun:
            self.write_status(*outcome(self._progress.finished, error))

    def unlock(self) -> None:
        """Let other processes use the folder."""
        if self._lock is not None:
            self._lock.close()

    def begin(self, config: Any) -> None:
        """Write the settings: from now on the folder belongs to this run."""
        write_config(self.folder, config)
        self._begun = True

    def resume(self) -> tuple[P, dict[str, Any]] | None:
        """Progress and state of the newest checkpoint; None for a new run."""
        found = load_checkpoint(self._checkpoints, self._kind)
        if found is not None:
            self._progress = self._saved = found[0]
        return found

    def record(self, progress: P) -> None:
        """Write `progress` to `status.json`."""
        self._progress = progress
        self.write_status(RunState.RUNNING)

    @property
    def checkpoint_due(self) -> bool:
        """Whether the last checkpoint is older than the settings allow."""
        return time.monotonic() - self._saved_at >= self._checkpoint_seconds

    def save(self, progress: P, state: Mapping[str, Any], *, good: bool = False) -> None:
        """Write a checkpoint, `good` to roll back to."""
        with self.writing():
            save_checkpoint(self._checkpoints, progress, state)
            if good:
                mark_good(self._checkpoints)
        self._saved_at = time.monotonic()
        self._saved = progress
        self.record(progress)

    def stop(self) -> NoReturn:
        """Exit after a checkpoint, as this process was asked to."""
        console.print("asked to stop: saved; the same command resumes here")
        sys.exit(EXIT_INTERRUPTED)

    def end(self, progress: P) -> None:
        """The run is complete: drop its checkpoints."""
        self._progress = progress
        shutil.rmtree(self._checkpoints, ignore_errors=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Wrap writes to the folder: the error of a full disk says where the run resumes."""
        try:
            with writing_to(self.folder):
                yield
        except UserError as error:
            raise UserError(
                f"{error}; free some space: the same command resumes after {self._saved.position}"
            ) from error

    def write_status(self, state: RunState, reason: str = "") -> None:
        """Write `status.json`; a failure only gives a warning."""
        status = self._describe(self._progress)
        try:
            status = replace(status, state=state, reason=reason, updated=time.time())
            write_status(self.folder, status)
        except OSError as error:  # not worth ending the run
            warn(f"cannot write {self.folder / STATUS_NAME}: {error.strerror}")
