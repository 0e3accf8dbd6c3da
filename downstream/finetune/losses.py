"""The segmentation loss: a weighted sum of cross entropy and Dice on logits (paper A)."""

from collections.abc import Iterable

import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import nn

from downstream.finetune.config import Balance
from downstream.labels.masks import Mask


class CrossEntropyDice(nn.Module):
    """`ce_weight` · cross entropy + (1 - `ce_weight`) · Dice loss.

    Takes logits `(N, C, H, W)` and class indices `(N, H, W)` int64; `weights` `(C,)` are the class
    weights of the cross entropy. Dice is pooled over the batch for each class, then averaged over
    the classes in the labels. Paper A's public code applied the activation twice; here perfect
    logits give a loss near zero.
    """

    def __init__(self, ce_weight: float, weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self.ce_weight = ce_weight
        self.entropy = nn.CrossEntropyLoss(weight=weights)
        self.dice = DiceLoss(mode="multiclass", from_logits=True)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        entropy: torch.Tensor = self.entropy(logits, target)
        dice: torch.Tensor = self.dice(logits, target)
        return self.ce_weight * entropy + (1 - self.ce_weight) * dice


def class_weights(masks: Iterable[Mask], classes: int, balance: Balance) -> tuple[float, ...]:
    """The class weights of the cross entropy, with mean 1 over the labelled pixels.

    `inverse_frequency`: every class has the same total weight (paper A only says "balanced"; its
    public code does not balance). The weight of a class without pixels is 0.
    """
    if balance == "none":
        return (1.0,) * classes
    counts = torch.zeros(classes, dtype=torch.float64)
    for mask in masks:
        counts += torch.bincount(torch.from_numpy(mask).flatten(), minlength=classes)
    present = counts > 0
    weights = torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0.0)
    return tuple(weights.tolist())
