"""Paper A's optimiser, and the learning rate as a pure function of the step."""

import math

import torch
from torch import nn

from pretrain.config import TrainConfig


def build_sgd(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD with momentum; weight decay on all parameters, as in the script paper A builds on."""
    return torch.optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def learning_rate(config: TrainConfig, epoch: int, step: int, steps_per_epoch: int) -> float:
    """The rate of one step: linear warm-up, then steps or a cosine to zero at the last epoch."""
    at = epoch + step / steps_per_epoch
    if at < config.warmup_epochs:
        return config.lr * (at + 1 / steps_per_epoch) / config.warmup_epochs
    if config.lr_schedule == "cosine":
        share = (at - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
        return config.lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    return config.lr * config.lr_decay ** (epoch // config.lr_decay_epochs)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Write the rate into every group; a scheduler prepared by accelerate would miscount steps."""
    for group in optimizer.param_groups:
        group["lr"] = lr
