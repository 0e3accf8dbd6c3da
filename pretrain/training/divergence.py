"""Divergence: steps that are not finite, a loss that explodes, a model at chance level.

A step whose loss or gradient is not finite is skipped by all processes. After `max_skipped_steps`
of them in a row, or when the loss exceeds `divergence_ratio` times that of the first step, the run
rolls back to the last good checkpoint (the newest after an epoch with a sound validation, or the
initial state) and continues with its learning rate times `rollback_lr_factor`; after
`max_rollbacks` roll-backs it fails. The data come again in the same order, so an epoch that counts
still has each sample once.
"""

import math
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import nn

from micrograph.cli import UserError
from pretrain.cards.archs import find_arch
from pretrain.config import TrainConfig
from pretrain.runs.skips import count_skips
from pretrain.training.metrics import Scores
from pretrain.training.progress import Progress

_FIRST_CHANCE_WARNING = 5  # epochs; repeated when they have doubled
_FEW_STEPS = 200  # no recipe leaves chance level in fewer


class Diverged(Exception):
    """Training cannot continue from here; raised by all processes at the same step."""

    def __init__(self, reason: str, progress: Progress) -> None:
        super().__init__(reason)
        self.progress = progress


def gradient_norm(model: nn.Module, accelerator: Accelerator) -> float:
    """The 2-norm of the whole gradient; with fp16, 0 or inf: whether its scaler finds a scale."""
    if accelerator.scaler is not None:
        # It finds the largest scale by overflowing at times, and skips those steps itself.
        return 0.0 if accelerator.scaler.get_scale() >= 1 else math.inf
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def count_step(progress: Progress, samples: int, loss_sum: float, *, finite: bool) -> Progress:
    """Progress after one more step; a skipped one adds nothing to the epoch's loss."""
    progress = count_skips(replace(progress, step=progress.step + 1), finite=finite)
    if not finite:
        return replace(progress, skipped_samples=progress.skipped_samples + samples)
    first_loss = loss_sum / samples if progress.first_loss is None else progress.first_loss
    return replace(progress, loss_sum=progress.loss_sum + loss_sum, first_loss=first_loss)


def check_divergence(config: TrainConfig, progress: Progress, loss: float) -> None:
    """Raise `Diverged` when too many steps were skipped or the loss (mean of a step) exploded."""
    at = f"in epoch {progress.epoch + 1}, step {progress.step}"
    if progress.skipped_in_a_row >= config.max_skipped_steps:
        raise Diverged(
            f"{progress.skipped_in_a_row} steps in a row without finite loss and gradient {at}",
            progress,
        )
    if math.isfinite(loss) and exploded(config, progress, loss):
        raise Diverged(f"the loss grew from {progress.first_loss:.3g} to {loss:.3g} {at}", progress)


def exploded(config: TrainConfig, progress: Progress, loss: float) -> bool:
    """Whether a mean loss is far above that of the first step, which is at chance level."""
    return (
        progress.first_loss is not None
        and not loss <= config.divergence_ratio * progress.first_loss
    )


def is_good(config: TrainConfig, progress: Progress, scores: Scores) -> bool:
    """Whether the state after a validation is one to roll back to."""
    # Not the training loss, which may be of another kind: at chance level it is log(classes).
    guess = max(progress.first_loss or 0.0, math.log(len(scores.confusion)))
    return not progress.skipped_in_a_row and scores.loss <= config.divergence_ratio * guess


def after_rollback(config: TrainConfig, good: Progress, fault: Diverged) -> Progress:
    """Progress of the good checkpoint, with counts and the best epoch of the run until now.

    Raises `UserError` after `max_rollbacks`.
    """
    now = fault.progress
    if now.rollbacks >= config.max_rollbacks:
        raise UserError(
            f"training diverged: {fault}, after {now.rollbacks} roll-backs, at "
            f"{now.lr_factor:g} times the learning rate; {remedy(config)}, in a new --run-dir"
        )
    return replace(
        good,
        rollbacks=now.rollbacks + 1,
        lost_epochs=now.lost_epochs + now.epoch - good.epoch,
        lr_factor=now.lr_factor * config.rollback_lr_factor,
        skipped_steps=now.skipped_steps,
        first_loss=now.first_loss,
        threads=now.threads,
        micro_batch_size=now.micro_batch_size,
        best_top1=now.best_top1,  # its file stays
        best_epoch=now.best_epoch,
        best_converged=now.best_converged,
    )


def remedy(config: TrainConfig) -> str:
    """What to try when a run does not learn."""
    note = find_arch(config.arch).lr_note
    hint = f" ({config.arch}: {note})" if note else ""
    return f"start again with an --lr below {config.lr:g}{hint}"


def chance_warning(config: TrainConfig, progress: Progress, scores: Scores, steps: int) -> str:
    """A warning after an epoch when the run is still at chance level; mostly empty.

    `steps`: of an epoch.
    """
    doublings = math.log2(max(progress.chance_epochs, 1) / _FIRST_CHANCE_WARNING)
    if progress.best_converged or doublings < 0 or not doublings.is_integer():
        return ""
    done = steps * progress.epoch
    cure = remedy(config)
    if done < _FEW_STEPS:
        cure = f"only {done} steps so far: wait, or use a --batch-size below {config.batch_size}"
    return (
        f"{progress.chance_epochs} epochs at chance level: balanced accuracy "
        f"{scores.balanced_accuracy:.1%} of {len(scores.confusion)} classes, "
        f"{scores.dominant_share:.0%} of the predictions are one class; {cure}"
    )
