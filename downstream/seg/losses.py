"""The segmentation loss, on logits only: a weighted sum of cross entropy and dice (paper A)."""

from collections.abc import Iterable

import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import nn

from downstream.config import Balance
from downstream.seg.masks import Mask


class CrossEntropyDice(nn.Module):
    """`share` · cross entropy + (1 - `share`) · dice.

    Takes logits `(N, C, H, W)` and class indices `(N, H, W)` int64; `weights` `(C,)` are those of
    the classes in the cross entropy, whose mean is weighted accordingly. Dice is pooled over the
    batch, per class, then averaged over the classes that the labels hold. Paper A's public code
    applied the activation twice; perfect logits must give a loss near zero.
    """

    def __init__(self, share: float, weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self.share = share
        self.entropy = nn.CrossEntropyLoss(weight=weights)
        self.dice = DiceLoss(mode="multiclass", from_logits=True)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        entropy: torch.Tensor = self.entropy(logits, target)
        dice: torch.Tensor = self.dice(logits, target)
        return self.share * entropy + (1 - self.share) * dice


def class_weights(masks: Iterable[Mask], classes: int, balance: Balance) -> tuple[float, ...]:
    """What each class weighs in the cross entropy, mean 1 over the labelled pixels.

    `inverse_frequency`: every class has the same total weight (paper A says "balanced" and no
    more; its public code does not balance). A class that no mask holds weighs nothing.
    """
    if balance == "none":
        return (1.0,) * classes
    counts = torch.zeros(classes, dtype=torch.float64)
    for mask in masks:
        counts += torch.bincount(torch.from_numpy(mask).flatten(), minlength=classes)
    present = counts > 0
    weights = torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0.0)
    return tuple(weights.tolist())
