"""The optimizer, and the learning rate as a pure function of the step."""

import math
from typing import assert_never

import torch
from torch import nn

from pretrain.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer, with torch's fused kernels.

    Weight decay applies to all parameters, as in the script that paper A builds on, or to all but
    the one-dimensional ones (norms and biases), as in He et al. 2019, "Bag of Tricks", section 3.1.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if config.decay_norm_and_bias or p.ndim > 1]
    vectors = [p for p in parameters if not (config.decay_norm_and_bias or p.ndim > 1)]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        *([{"params": vectors, "weight_decay": 0.0}] if vectors else []),
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.peak_lr, momentum=config.momentum, fused=True)
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.peak_lr, fused=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.peak_lr, fused=True)
    assert_never(config.optimizer)


def learning_rate(config: TrainConfig, epoch: int, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step: linear warm-up, then the schedule; the cosine ends at zero."""
    at = epoch + step / steps_per_epoch
    if at < config.warmup_epochs:
        return config.peak_lr * (at + 1 / steps_per_epoch) / config.warmup_epochs
    if config.lr_schedule == "constant":
        return config.peak_lr
    if config.lr_schedule == "cosine":
        done = (at - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
        return config.peak_lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return config.peak_lr * config.lr_decay ** (epoch // config.lr_decay_epochs)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group; a scheduler prepared by accelerate would miscount steps."""
    for group in optimizer.param_groups:
        group["lr"] = lr
