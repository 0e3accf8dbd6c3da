"""A mean teacher: a moving average of the student predicts pseudo-labels.

Tarvainen and Valpola 2017 (arXiv:1703.01780), section 2; pseudo-labels and weights as in Hoyer et
al. 2022 (DAFormer, arXiv:2111.14887), section 3.1, but per image, not per batch.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from downstream.adaptation.batchnorm import STATISTICS, batch_norms
from pretrain.training.ema import lerp_towards


class Teacher:
    """An exponential moving average of the student; its state is the model and the step count.

    It has its own running statistics, of the images it labels, as in DAFormer's public code: the
    student's are those of masked views, and meaningless in the first steps. The statistics of the
    source, if batch norm keeps both, follow the student.
    """

    def __init__(self, student: nn.Module, alpha: float) -> None:
        self.model = copy.deepcopy(student).requires_grad_(False)
        self._alpha = alpha
        self._steps = 0

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Move towards the student by 1 - min(1 - 1 / (t + 1), alpha) at step t, from 0.

        At first this is the mean of all students so far, without the initial weights.
        """
        alpha = min(1 - 1 / (self._steps + 1), self._alpha)
        lerp_towards(list(_followed(self.model)), list(_followed(student)), 1 - alpha)
        self._steps += 1

    @torch.no_grad()
    def pseudo_labels(
        self, images: torch.Tensor, threshold: float, counted: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Classes `(N, H, W)` int64 of normalised images, and a weight `(N,)` for each image.

        The weight is the fraction of pixels (of those in `counted` `(N, H, W)` bool, if given)
        whose highest probability is at least `threshold`. Batch norm is in training mode unless
        frozen; dropout and the like are off.
        """
        self.model.eval()
        for layer in batch_norms(self.model):
            layer.train()
        try:
            probabilities = self.model(images).float().softmax(1)
        finally:
            self.model.eval()
        confidence, labels = probabilities.max(1)
        sure = (confidence >= threshold).float()
        valid = torch.ones_like(sure) if counted is None else counted.float()
        return labels, (sure * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)

    def state_dict(self) -> dict[str, Any]:
        """The state of the model and the number of updates."""
        return {"model": self.model.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.model.load_state_dict(state["model"])
        self._steps = int(state["steps"])


def _followed(model: nn.Module) -> Iterator[torch.Tensor]:
    own = {
        id(getattr(layer, statistic)) for layer in batch_norms(model) for statistic in STATISTICS
    }
    yield from model.parameters()
    yield from (buffer for buffer in model.buffers() if id(buffer) not in own)
