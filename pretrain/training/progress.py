"""How far a pre-training is: all that its loop must remember, and what a validation changes."""

import math
from dataclasses import dataclass, replace

from pretrain.config import TrainConfig
from pretrain.training.metrics import Scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Everything that the training loop must remember between steps."""

    epoch: int = 0  # completed epochs
    step: int = 0  # completed steps of the epoch after
    loss_sum: float = 0.0  # over the samples of that epoch so far, all processes
    epoch_seconds: float = 0.0  # of the epoch so far, in all attempts
    best_top1: float = -1.0
    best_epoch: int = 0
    best_converged: bool | None = None  # whether it is above chance level; None: not known
    stale_epochs: int = 0  # validations since the best
    chance_epochs: int = 0  # latest validations in a row at chance level
    skipped_samples: int = 0  # of the epoch so far, that loss_sum leaves out
    skipped_steps: int = 0  # of the whole run
    skipped_in_a_row: int = 0
    first_loss: float | None = None  # mean of the first step with a finite loss
    rollbacks: int = 0
    lost_epochs: int = 0  # completed epochs that roll-backs have undone
    lr_factor: float = 1.0  # on the learning rate, lowered by roll-backs
    micro_batch_size: int = 0
    threads: int = 0
    finished: str = ""  # why the run ended; empty while it is running

    @property
    def position(self) -> str:
        """For messages."""
        return f"epoch {self.epoch}, step {self.step}"


def after_epoch(config: TrainConfig, progress: Progress, scores: Scores) -> tuple[Progress, bool]:
    """Progress after a finished epoch, and whether its weights are the best so far."""
    epoch = progress.epoch + 1
    progress = replace(
        progress,
        epoch=epoch,
        step=0,
        loss_sum=0.0,
        epoch_seconds=0.0,
        skipped_samples=0,
        stale_epochs=progress.stale_epochs + 1,
        chance_epochs=0 if scores.converged else progress.chance_epochs + 1,
    )
    best = math.isfinite(scores.loss) and scores.top1 > progress.best_top1
    if best:
        progress = replace(
            progress,
            best_top1=scores.top1,
            best_epoch=epoch,
            best_converged=scores.converged,
            stale_epochs=0,
        )
    return replace(progress, finished=why_finished(config, progress)), best


def why_finished(config: TrainConfig, progress: Progress) -> str:
    """Why training has ended; empty if it has not."""
    if progress.epoch >= config.epochs:
        return f"all {config.epochs} epochs done"
    if progress.stale_epochs >= config.patience:
        return f"no better top-1 in {config.patience} epochs"
    return ""
