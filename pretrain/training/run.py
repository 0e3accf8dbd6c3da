"""One pre-training run: what all its processes do together to open, save, roll back and end it.

Every process has one; only process 0 writes, through `pretrain.runs.run`.
"""

import json
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import nn

from micrograph.atomic import write_atomically
from micrograph.cli import EXIT_INTERRUPTED, UserError, console, warn
from pretrain.config import TrainConfig
from pretrain.loading.sample_order import Ids
from pretrain.outputs.run_folder import BEST_METADATA, write_description
from pretrain.outputs.tracking import RunTracker
from pretrain.runs.checkpoint import has_good, load_good
from pretrain.runs.interruption import Interruption
from pretrain.runs.phases import announce
from pretrain.runs.resume_check import check_same_data, check_same_settings
from pretrain.runs.run import Run
from pretrain.runs.run_folder import RunPaths
from pretrain.runs.status import RunState, Status
from pretrain.runs.throughput import seconds_left
from pretrain.training.distributed import average_statistics, check_equal, sum_over, sync_errors
from pretrain.training.divergence import Diverged, after_rollback, chance_warning, is_good, remedy
from pretrain.training.ema import Ema
from pretrain.training.metrics import Scores
from pretrain.training.progress import Progress, after_epoch, why_finished
from shards.shard_format.schema import Manifest, read_manifest


class TrainingRun:
    """A run from opening to closing, with its model, optimizer and averaged weights."""

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
        self._writes = accelerator.is_main_process
        self._tracker: RunTracker | None = None  # of process 0
        self._epoch_began = time.monotonic()
        self._run = Run(
            self.paths.folder,
            Progress(),
            self._status,
            checkpoint_minutes=config.checkpoint_minutes,
        )
        with self.sync_errors():  # all processes compare before one writes
            _check_same_run(self.paths, config, manifest)
        with self.sync_errors():
            if self._writes:
                self._run.__enter__()
                write_description(self.paths.folder, config, manifest)
                self._run.begin(config)  # last: a folder with config.yaml has the rest too
        self._model: nn.Module | None = None
        self._optimizer: Any = None
        self._ema: Ema | None = None

    def __enter__(self) -> "TrainingRun":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._run.record_outcome(error)
        try:
            if self._tracker is not None:
                self._tracker.close()
        except Exception as fault:  # must not hide how the run itself ended
            warn(f"cannot finish the plots or the wandb run: {fault}")
        self._accelerator.end_training()
        self._run.unlock()

    def sync_errors(self) -> AbstractContextManager[None]:
        """Wrap a part of the start-up: an error in one process, or a stop request, ends all."""
        return sync_errors(self._accelerator, self._interruption)

    def resume(self, model: nn.Module, optimizer: Any, ema: Ema | None) -> Progress:
        """Load the newest checkpoint into the (not yet prepared) model, optimizer and average."""
        progress, self._ema = Progress(), ema
        with self.sync_errors():
            found = self._run.resume()
            if found is not None:
                progress, state = found
                progress = replace(progress, finished=why_finished(self._config, progress))
                self._load(model, optimizer, state)
                self._report_resume(progress)
        check_equal(self._accelerator, "checkpoint", progress.epoch, progress.step)
        self._epoch_began -= progress.epoch_seconds
        with self.sync_errors(), self._run.writing():
            if self._writes:
                metrics = self._run.metrics
                metrics.rewind("epoch", progress.epoch)  # a checkpoint may be older
                self._tracker = RunTracker(self.paths.folder, self._config, self._manifest, metrics)
                self._run.record(progress)
        return progress

    def watch(self, model: nn.Module, optimizer: Any, progress: Progress) -> None:
        """Save these (prepared) from now on, when a checkpoint is due and before a stop."""
        self._model, self._optimizer = model, optimizer
        self._interruption.defer()
        # Only process 0 looks: it writes the file while others might still be looking for it.
        lacks = self._writes and not has_good(self.paths.checkpoints)
        if sum_over(self._accelerator, torch.tensor([float(lacks)])).item():
            self.save(progress, good=True)  # for roll-backs; and a full disk is noticed early

    def is_interrupted(self) -> bool:
        """Whether this process was asked to stop."""
        return self._interruption.requested

    @property
    def checkpoint_due(self) -> bool:
        """Whether process 0's clock asks for a checkpoint inside the epoch."""
        return self._writes and self._run.checkpoint_due

    def save(self, progress: Progress, *, good: bool = False) -> None:
        """Write a checkpoint, `good` to roll back to; collective."""
        assert self._model is not None
        if progress.step:
            progress = replace(progress, epoch_seconds=time.monotonic() - self._epoch_began)
        plain = self._accelerator.unwrap_model(self._model)
        average_statistics(plain, self._accelerator)
        if self._ema is not None:
            average_statistics(self._ema.model, self._accelerator)
        with sync_errors(self._accelerator):
            if self._writes:
                scaler = self._accelerator.scaler
                state = {
                    "model": plain.state_dict(),
                    "optimizer": self._optimizer.state_dict(),
                    "ema": None if self._ema is None else self._ema.model.state_dict(),
                    "scaler": None if scaler is None else scaler.state_dict(),
                }
                self._run.save(progress, state, good=good)

    def stop(self, progress: Progress) -> NoReturn:
        """Save and exit, as a process was asked to; collective."""
        announce("stop")
        self.save(progress)
        if self._writes:
            self._run.stop()
        sys.exit(EXIT_INTERRUPTED)

    def roll_back(self, fault: Diverged) -> Progress:
        """Load the last good state and lower the learning rate; collective.

        Raises `UserError` after `max_rollbacks` of them.
        """
        assert self._model is not None
        plain = self._accelerator.unwrap_model(self._model)
        with sync_errors(self._accelerator):
            found = load_good(self.paths.checkpoints, Progress)
            if found is None:
                folder = self.paths.checkpoints
                raise UserError(f"{fault}, and {folder} has no state to roll back to")
            progress = after_rollback(self._config, found[0], fault)
            self._load(plain, self._optimizer, found[1])
        check_equal(self._accelerator, "good checkpoint", progress.epoch, progress.step)
        if self._writes:
            epoch = progress.epoch
            state = f"the end of epoch {epoch}" if epoch else "the initial state"
            warn(
                f"{fault}: back to {state}, continuing with {progress.lr_factor:g} times the "
                f"learning rate (roll-back {progress.rollbacks} of {self._config.max_rollbacks})"
            )
            self._run.metrics.rewind("epoch", epoch)
        self.save(progress, good=True)
        return progress

    def record_ids(self, epoch: int, step: int, ids: Ids) -> None:
        """Write which samples this process trains on in a step, if so configured."""
        if not self._config.record_ids:
            return
        accelerator = self._accelerator
        name = f"ids-{accelerator.process_index}-of-{accelerator.num_processes}.jsonl"
        with (self.paths.folder / name).open("a", encoding="ascii") as stream:
            stream.write(json.dumps({"epoch": epoch, "step": step, "ids": ids.tolist()}) + "\n")

    def end_epoch(
        self, progress: Progress, scores: Scores, measured: Mapping[str, float]
    ) -> Progress:
        """Record an epoch, keep its weights if they are the best, decide whether training ends."""
        announce("record")
        config, epoch = self._config, progress.epoch + 1
        progress, best = after_epoch(config, progress, scores)
        now = time.monotonic()
        record = {f"val_{name}": value for name, value in scores.scalars().items()}
        record |= {"best_top1": progress.best_top1, "epochs_trained": epoch + progress.lost_epochs}
        record |= {"epoch_seconds": now - self._epoch_began}  # with validation and checkpoints
        self._epoch_began = now
        with sync_errors(self._accelerator), self._run.writing():
            if best:
                self._keep_best(scores, epoch)
            if self._tracker is not None:
                self._tracker.log({"epoch": epoch, **measured, **record}, scores.confusion)
            steps = -(-self._train_samples // config.batch_size)
            warning = chance_warning(config, progress, scores, steps)
            if warning and self._writes:
                warn(warning)
        self.save(progress, good=is_good(config, progress, scores))
        return progress

    def report(self, progress: Progress) -> None:
        """Print how the run ended, and what to do next."""
        announce("end")
        if not self._writes:
            return
        console.print(
            f"{self.paths.folder}: {progress.finished}; "
            f"best top-1 {progress.best_top1:.2%} after epoch {progress.best_epoch}",
            markup=False,
        )
        if progress.best_converged is False:
            warn(f"not converged: its best epoch is at chance level; {remedy(self._config)}")
        console.print(f"next: python -m pretrain.export {self.paths.folder}", markup=False)

    @property
    def _train_samples(self) -> int:
        return self._manifest.splits["train"].samples

    def _load(self, model: nn.Module, optimizer: Any, state: Mapping[str, Any]) -> None:
        model.load_state_dict(dict(state["model"]))
        optimizer.load_state_dict(state["optimizer"])
        if self._ema is not None:
            self._ema.model.load_state_dict(dict(state["ema"]))
        if self._accelerator.scaler is not None and state["scaler"] is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    def _status(self, progress: Progress) -> Status:
        epochs = self._config.epochs
        return Status(
            state=RunState.RUNNING,
            epoch=progress.epoch,
            epochs=epochs,
            best_top1=progress.best_top1 if progress.best_epoch else None,
            best_epoch=progress.best_epoch,
            converged=progress.best_converged,
            eta_seconds=seconds_left(self._run.metrics.records, epochs),
        )

    def _keep_best(self, scores: Scores, epoch: int) -> None:
        if not self._writes:
            return
        assert self._model is not None
        kept = self._model if self._ema is None else self._ema.model
        state = self._accelerator.unwrap_model(kept).state_dict()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        best = {
            "epoch": epoch,
            "scores": scores.scalars(),
            "converged": scores.converged,
            "confusion": scores.confusion,
        }
        text = json.dumps(best)
        write_atomically(self.paths.best, save(tensors, metadata={BEST_METADATA: text}))

    def _report_resume(self, progress: Progress) -> None:
        if not self._writes:
            return
        console.print(f"resuming after {progress.position}")
        if progress.threads != torch.get_num_threads():
            warn(
                f"the run had {progress.threads} threads and now has {torch.get_num_threads()}: "
                "its numbers will be close to those of an uninterrupted run, but not the same"
            )


def _check_same_run(paths: RunPaths, config: TrainConfig, manifest: Manifest) -> None:
    """Raise `UserError` when the folder holds another run than this one."""
    if not paths.config.exists():
        return
    # The cosine's curve ends with the last epoch.
    fixed = ("epochs",) if config.lr_schedule == "cosine" else ()
    check_same_settings(paths.folder, config, fixed=fixed)
    before = read_manifest(paths.folder).corpus_hash
    check_same_data(paths.folder, before, manifest.corpus_hash, config.shards)
