"""One training run on disk: opened, locked, resumed, saved, and its best weights kept."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import nn

from pretrain.atomic import write_atomically, writing_to
from pretrain.checkpoint import (
    Progress,
    has_good,
    load_checkpoint,
    load_good,
    mark_good,
    save_checkpoint,
)
from pretrain.config import TrainConfig
from pretrain.early_stopping import after_epoch, why_finished
from pretrain.ema import Ema
from pretrain.guards import Diverged, after_rollback, chance_warning, is_good, remedy
from pretrain.metrics import Scores
from pretrain.opening import check_same_run, lock, write_description
from pretrain.order import Ids
from pretrain.processes import (
    Interruption,
    average_statistics,
    check_equal,
    sum_over,
    together,
)
from pretrain.run_folder import RunPaths
from pretrain.status import (
    EXIT_INTERRUPTED,
    STATUS_NAME,
    State,
    Status,
    how_it_ended,
    write_status,
)
from pretrain.tracking import (
    NullTracker,
    RunTracker,
    Tracker,
    read_metrics,
    seconds_between,
    seconds_left,
)
from shards.cli import UserError, console, warn
from shards.schema import Manifest


class Run:
    """One training run, from opening to closing; every process has one, process 0 writes."""

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        manifest: Manifest,
        interruption: Interruption,
    ) -> None:
        self.paths = RunPaths(config.run_folder)
        self._config = config
        self._manifest = manifest
        self._accelerator = accelerator
        self._interruption = interruption
        self._tracker: Tracker = NullTracker()
        self._progress = self._saved = Progress()
        self._saved_at = self._epoch_began = time.monotonic()
        self._lock: ExitStack | None = None
        with self.together():  # all have compared before one writes
            check_same_run(self.paths, config, manifest)
        with self.together():
            if accelerator.is_main_process:
                self._lock = lock(self.paths.lock)
                write_description(self.paths, config, manifest)
        self._model: nn.Module | None = None
        self._optimizer: Any = None
        self._ema: Ema | None = None

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            self._tell(*how_it_ended(self._progress.finished, error))
        try:
            self._tracker.close()
        except Exception as fault:  # must not hide how the run itself ended
            warn(f"cannot finish what is shown of the run: {fault}")
        self._accelerator.end_training()
        if self._lock is not None:
            self._lock.close()

    def together(self) -> AbstractContextManager[None]:
        """Around a part of the start: an error in one process, or a stop, ends all of them."""
        return together(self._accelerator, self._interruption)

    def average(self, ema: Ema | None) -> None:
        """Load, save and keep these averaged weights too, if there are any."""
        self._ema = ema

    def resume(self, model: nn.Module, optimizer: Any) -> Progress:
        """Load the newest checkpoint into the (not yet prepared) model and optimizer."""
        progress = Progress()
        with self.together():
            found = load_checkpoint(self.paths.checkpoints)
            if found is not None:
                progress, state = found
                progress = replace(progress, finished=why_finished(self._config, progress))
                self._load(model, optimizer, state)
                self._report_resume(progress)
        self._progress = self._saved = progress
        check_equal(self._accelerator, "checkpoint", progress.epoch, progress.step)
        self._epoch_began -= progress.epoch_seconds
        with self.together(), writing_to(self.paths.folder):
            if self._accelerator.is_main_process:
                self._tracker = RunTracker(
                    self.paths.folder, self._config, self._manifest, progress.epoch
                )
                self._tell("running")
        return progress

    def watch(self, model: nn.Module, optimizer: Any, progress: Progress) -> None:
        """From now on, save these (prepared) when a checkpoint is due, and before a stop."""
        self._model, self._optimizer = model, optimizer
        self._interruption.defer()
        # Process 0's view alone: it writes the file while the others may still look for it.
        lacks = self._accelerator.is_main_process and not has_good(self.paths.checkpoints)
        if sum_over(self._accelerator, torch.tensor([float(lacks)])).item():
            self.save(progress, good=True)  # to roll back to; and a full disk shows at once

    @property
    def interrupted(self) -> bool:
        """Whether this process was asked to stop."""
        return self._interruption.requested

    @property
    def checkpoint_due(self) -> bool:
        """Whether process 0's clock asks for a checkpoint inside the epoch."""
        minutes = (time.monotonic() - self._saved_at) / 60
        return self._accelerator.is_main_process and minutes >= self._config.checkpoint_minutes

    def seconds_between_epochs(self) -> float:
        """What the latest epochs took beside their training: validation, checkpoints."""
        samples = self._manifest.splits["train"].samples
        return seconds_between(read_metrics(self.paths.folder), samples)

    def save(self, progress: Progress, *, good: bool = False) -> None:
        """Write a checkpoint, `good` to roll back to; all processes must call this together."""
        assert self._model is not None
        if progress.step:
            progress = replace(progress, epoch_seconds=time.monotonic() - self._epoch_began)
        self._progress = progress
        plain = self._accelerator.unwrap_model(self._model)
        average_statistics(plain, self._accelerator)
        if self._ema is not None:
            average_statistics(self._ema.model, self._accelerator)
        with together(self._accelerator), self._writing():
            if self._accelerator.is_main_process:
                scaler = self._accelerator.scaler
                state = {
                    "model": plain.state_dict(),
                    "optimizer": self._optimizer.state_dict(),
                    "ema": None if self._ema is None else self._ema.model.state_dict(),
                    "scaler": None if scaler is None else scaler.state_dict(),
                }
                save_checkpoint(self.paths.checkpoints, progress, state)
                if good:
                    mark_good(self.paths.checkpoints)
                self._tell("running")
        self._saved = progress
        self._saved_at = time.monotonic()

    def stop(self, progress: Progress) -> NoReturn:
        """Save and exit, as a process was asked to; all processes must call this together."""
        self.save(progress)
        if self._accelerator.is_main_process:
            console.print("asked to stop: saved; the same command goes on from here")
        sys.exit(EXIT_INTERRUPTED)

    def roll_back(self, fault: Diverged) -> Progress:
        """Load the last good state, to go on from with a lower learning rate.

        Raises `UserError` when that has been tried often enough.
        """
        assert self._model is not None
        plain = self._accelerator.unwrap_model(self._model)
        with together(self._accelerator):
            found = load_good(self.paths.checkpoints)
            if found is None:
                folder = self.paths.checkpoints
                raise UserError(f"{fault}, and {folder} has no state to roll back to")
            progress = after_rollback(self._config, found[0], fault)
            self._load(plain, self._optimizer, found[1])
        check_equal(self._accelerator, "good checkpoint", progress.epoch, progress.step)
        if self._accelerator.is_main_process:
            warn(
                f"{fault}: back to {_state_after(progress.epoch)}, "
                f"on with {progress.lr_factor:g} times the learning rate "
                f"(roll-back {progress.rollbacks} of {self._config.rollback_limit})"
            )
        self._tracker.rewind(progress.epoch)
        self.save(progress, good=True)
        return progress

    def record_ids(self, epoch: int, step: int, ids: Ids) -> None:
        """If asked for, note which samples this process trains on in a step."""
        if not self._config.record_ids:
            return
        accelerator = self._accelerator
        name = f"ids-{accelerator.process_index}-of-{accelerator.num_processes}.jsonl"
        with (self.paths.folder / name).open("a", encoding="ascii") as stream:
            stream.write(json.dumps({"epoch": epoch, "step": step, "ids": ids.tolist()}) + "\n")

    def end_epoch(
        self, progress: Progress, scores: Scores, measured: Mapping[str, float]
    ) -> Progress:
        """Record an epoch, keep its weights if they are the best so far, decide whether to stop."""
        config, epoch = self._config, progress.epoch + 1
        progress, best = after_epoch(config, progress, scores)
        now = time.monotonic()
        record = {f"val_{name}": value for name, value in scores.scalars().items()}
        record |= {"best_top1": progress.best_top1, "epochs_trained": epoch + progress.lost_epochs}
        record |= {"epoch_seconds": now - self._epoch_began}  # with validation and checkpoints
        self._epoch_began = now
        with together(self._accelerator), self._writing():
            if best:
                self._keep_best(scores, epoch)
            self._tracker.log({"epoch": epoch, **measured, **record}, scores.confusion)
            steps = -(-self._manifest.splits["train"].samples // config.batch_size)
            said = chance_warning(config, progress, scores, steps)
            if said and self._accelerator.is_main_process:
                warn(said)
        self.save(progress, good=is_good(config, progress, scores))
        return progress

    def report(self, progress: Progress) -> None:
        """Say how the run ended, and what to do next."""
        if not self._accelerator.is_main_process:
            return
        console.print(
            f"{self.paths.folder}: {progress.finished}; "
            f"best top-1 {progress.best_top1:.2%} after epoch {progress.best_epoch}",
            markup=False,
        )
        if progress.best_converged is False:
            warn(f"not converged: its best epoch still guesses; {remedy(self._config)}")
        try:
            self._tracker.finish()
        except Exception as fault:  # of a service that the training does not depend on
            warn(f"cannot tell the tracker of the encoder: {fault}")
        console.print(f"next: python -m pretrain.export {self.paths.folder}", markup=False)

    def _load(self, model: nn.Module, optimizer: Any, state: Mapping[str, Any]) -> None:
        model.load_state_dict(dict(state["model"]))
        optimizer.load_state_dict(state["optimizer"])
        if self._ema is not None:
            self._ema.model.load_state_dict(dict(state["ema"]))
        if self._accelerator.scaler is not None and state["scaler"] is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Around writing into the run's folder: says what to do when the disk takes it not."""
        try:
            with writing_to(self.paths.folder):
                yield
        except UserError as error:
            saved = self._saved
            raise UserError(
                f"{error}; with room for it, the same command goes on after epoch {saved.epoch}, "
                f"step {saved.step}"
            ) from error

    def _tell(self, state: State, reason: str = "") -> None:
        progress, epochs = self._progress, self._config.epochs
        status = Status(
            state=state,
            reason=reason,
            epoch=progress.epoch,
            epochs=epochs,
            best_top1=progress.best_top1 if progress.best_epoch else None,
            best_epoch=progress.best_epoch,
            converged=progress.best_converged,
            eta_seconds=seconds_left(read_metrics(self.paths.folder), epochs),
            updated=time.time(),
        )
        try:
            write_status(self.paths.folder, status)
        except OSError as error:  # the run itself is worth more
            warn(f"cannot write {self.paths.folder / STATUS_NAME}: {error.strerror}")

    def _keep_best(self, scores: Scores, epoch: int) -> None:
        if not self._accelerator.is_main_process:
            return
        assert self._model is not None
        kept = self._model if self._ema is None else self._ema.model
        state = self._accelerator.unwrap_model(kept).state_dict()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        story = {
            "epoch": epoch,
            "scores": scores.scalars(),
            "converged": scores.converged,
            "confusion": scores.confusion,
        }
        write_atomically(self.paths.best, save(tensors, metadata={"story": json.dumps(story)}))

    def _report_resume(self, progress: Progress) -> None:
        if not self._accelerator.is_main_process:
            return
        console.print(f"resuming after epoch {progress.epoch}, step {progress.step}")
        if progress.threads != torch.get_num_threads():
            warn(
                f"the run had {progress.threads} threads and now has {torch.get_num_threads()}: "
                "its numbers will be close to, not the same as, those of one never interrupted"
            )


def _state_after(epoch: int) -> str:
    return f"the end of epoch {epoch}" if epoch else "the initial state"
