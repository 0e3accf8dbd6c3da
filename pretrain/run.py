"""One training run on disk: opened, locked, resumed, saved, and its best weights kept."""

import fcntl
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import IO, Any

import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import nn

from pretrain.atomic import write_atomically
from pretrain.checkpoint import Progress, load_checkpoint, save_checkpoint
from pretrain.config import TrainConfig
from pretrain.ema import Ema
from pretrain.inits import resolve_init
from pretrain.metrics import Scores
from pretrain.order import Ids
from pretrain.processes import Interruption, average_statistics
from pretrain.run_folder import RunPaths, read_run
from pretrain.tracking import NullTracker, RunTracker, Tracker
from shards.cli import UserError, console, warn
from shards.schema import Manifest, manifest_text
from shards.settings import dump_config

# Settings that do not change what an epoch computes, so a run may go on with others.
_FREE_ON_RESUME = frozenset(
    {
        "run_dir",
        "shards",  # the corpus hash is compared instead
        "cache_dir",
        "epochs",
        "patience",
        "threads",
        "loader_threads",
        "micro_batch_size",  # the checkpoint's own is used
        "checkpoint_minutes",
        "record_ids",
        "wandb",
        "wandb_project",
    }
)


class Run:
    """One training run, from opening to closing; every process has one, process 0 writes."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator, manifest: Manifest) -> None:
        self.paths = RunPaths(config.run_folder)
        self._config = config
        self._manifest = manifest
        self._accelerator = accelerator
        self._tracker: Tracker = NullTracker()
        self._interruption = Interruption()
        self._saved_at = time.monotonic()
        self._lock: IO[str] | None = None
        _check_same_run(self.paths, config, manifest)
        accelerator.wait_for_everyone()  # all have compared before one writes
        if accelerator.is_main_process:
            self._lock = _lock(self.paths)
            _write_description(self.paths, config, manifest)
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
        self._tracker.close()
        self._accelerator.end_training()
        if self._lock is not None:
            self._lock.close()

    def average(self, ema: Ema | None) -> None:
        """Load, save and keep these averaged weights too, if there are any."""
        self._ema = ema

    def resume(self, model: nn.Module, optimizer: Any) -> Progress:
        """Load the newest checkpoint into the (not yet prepared) model and optimizer."""
        found = load_checkpoint(self.paths.checkpoints)
        progress = Progress()
        if found is not None:
            progress, state = found
            progress = replace(progress, finished=self._why_finished(progress))
            model.load_state_dict(dict(state["model"]))
            optimizer.load_state_dict(state["optimizer"])
            if self._ema is not None:
                self._ema.model.load_state_dict(dict(state["ema"]))
            if self._accelerator.scaler is not None and state["scaler"] is not None:
                self._accelerator.scaler.load_state_dict(state["scaler"])
            self._report_resume(progress)
        if self._accelerator.is_main_process:
            self._tracker = RunTracker(
                self.paths.folder, self._config, self._manifest, progress.epoch
            )
        return progress

    def watch(self, model: nn.Module, optimizer: Any) -> None:
        """From now on, save these (prepared) when a checkpoint is due."""
        self._model, self._optimizer = model, optimizer

    @property
    def interrupted(self) -> bool:
        """Whether this process was asked to stop."""
        return self._interruption.requested

    @property
    def checkpoint_due(self) -> bool:
        """Whether process 0's clock asks for a checkpoint inside the epoch."""
        minutes = (time.monotonic() - self._saved_at) / 60
        return self._accelerator.is_main_process and minutes >= self._config.checkpoint_minutes

    def save(self, progress: Progress) -> None:
        """Write a checkpoint; every process must call this at the same step."""
        assert self._model is not None
        plain = self._accelerator.unwrap_model(self._model)
        average_statistics(plain, self._accelerator)
        if self._ema is not None:
            average_statistics(self._ema.model, self._accelerator)
        if self._accelerator.is_main_process:
            scaler = self._accelerator.scaler
            state = {
                "model": plain.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "ema": None if self._ema is None else self._ema.model.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
            }
            save_checkpoint(self.paths.checkpoints, progress, state)
        self._saved_at = time.monotonic()
        self._accelerator.wait_for_everyone()

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
        epoch = progress.epoch + 1
        progress = replace(
            progress, epoch=epoch, step=0, loss_sum=0.0, stale_epochs=progress.stale_epochs + 1
        )
        if scores.top1 > progress.best_top1:
            progress = replace(progress, best_top1=scores.top1, best_epoch=epoch, stale_epochs=0)
            self._keep_best(scores, epoch)
        progress = replace(progress, finished=self._why_finished(progress))
        record = {f"val_{name}": value for name, value in scores.scalars().items()}
        record |= {"best_top1": progress.best_top1}
        self._tracker.log({"epoch": epoch, **measured, **record}, scores.confusion)
        self.save(progress)
        return progress

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

    def _why_finished(self, progress: Progress) -> str:
        if progress.epoch >= self._config.epochs:
            return f"all {self._config.epochs} epochs done"
        if progress.stale_epochs >= self._config.patience:
            return f"no better top-1 in {self._config.patience} epochs"
        return ""

    def _report_resume(self, progress: Progress) -> None:
        if not self._accelerator.is_main_process:
            return
        console.print(f"resuming after epoch {progress.epoch}, step {progress.step}")
        if progress.threads != torch.get_num_threads():
            warn(
                f"the run had {progress.threads} threads and now has {torch.get_num_threads()}: "
                "its numbers will be close to, not the same as, those of one never interrupted"
            )


def _check_same_run(paths: RunPaths, config: TrainConfig, manifest: Manifest) -> None:
    if not paths.config.exists():
        return
    before, corpus, _ = read_run(paths.folder)
    for name in TrainConfig.__dataclass_fields__:
        old, new = getattr(before, name), getattr(config, name)
        free = name in _FREE_ON_RESUME and not (
            name == "epochs"
            and config.lr_schedule == "cosine"  # the curve ends with the last epoch
        )
        if old != new and not free:
            raise UserError(
                f"{paths.folder} holds a run with {name} {old}, not {new}; "
                "choose another --run-dir, or delete that folder"
            )
    if corpus.corpus_hash != manifest.corpus_hash:
        raise UserError(
            f"{paths.folder} was trained on other shards than {config.shards} now holds; "
            "choose another --run-dir"
        )


def _lock(paths: RunPaths) -> IO[str]:
    """Hold the run's folder until this process ends, however it ends."""
    try:
        paths.folder.mkdir(parents=True, exist_ok=True)
        stream = paths.lock.open("w")
    except OSError as error:
        raise UserError(f"cannot write to {paths.folder}: {error.strerror}") from error
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise UserError(
            f"another process is training in {paths.folder}; wait for it, or end it "
            "(a killed launcher can leave its trainer alive)"
        ) from None
    return stream


def _write_description(paths: RunPaths, config: TrainConfig, manifest: Manifest) -> None:
    try:
        # The manifest first: where config.yaml is, the rest is too.
        write_atomically(paths.manifest, manifest_text(manifest).encode())
        if (card := resolve_init(config.init).card_path) and card.is_file():
            write_atomically(paths.init_card, card.read_bytes())
        write_atomically(paths.config, dump_config(config).encode())
    except OSError as error:
        raise UserError(f"cannot write to {paths.folder}: {error.strerror}") from error
