"""What a validation means for a run: the best epoch so far or another stale one, and its end."""

import math
from dataclasses import replace

from pretrain.config import TrainConfig
from pretrain.training.metrics import Scores
from pretrain.training.progress import Progress


def after_epoch(config: TrainConfig, progress: Progress, scores: Scores) -> tuple[Progress, bool]:
    """Progress behind a finished epoch, and whether its weights are the best so far."""
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
    """Why there is nothing left to train; empty where there is."""
    if progress.epoch >= config.epochs:
        return f"all {config.epochs} epochs done"
    if progress.stale_epochs >= config.patience:
        return f"no better top-1 in {config.patience} epochs"
    return ""
