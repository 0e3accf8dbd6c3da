"""The segmentation loss, on logits only: a weighted sum of cross entropy and dice (paper A)."""

import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import nn


class CrossEntropyDice(nn.Module):
    """`share` · cross entropy + (1 - `share`) · dice.

    Takes logits `(N, C, H, W)` and class indices `(N, H, W)` int64. Paper A's public code applied
    the activation twice; perfect logits must give a loss near zero.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.dice = DiceLoss(mode="multiclass", from_logits=True)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        entropy = nn.functional.cross_entropy(logits, target)
        dice: torch.Tensor = self.dice(logits, target)
        return self.share * entropy + (1 - self.share) * dice
