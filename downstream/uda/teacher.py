"""A mean teacher: the average of a student over its steps labels the student's images.

Tarvainen and Valpola 2017 (arXiv:1703.01780), section 2; pseudo labels and their weight as Hoyer et
al. 2022 (DAFormer, arXiv:2111.14887), section 3.1, but weighted per image, not per batch.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from downstream.uda.batchnorm import STATISTICS, batch_norms
from pretrain.ema import lerp_towards


class Teacher:
    """A copy of a student that follows it at a distance; its state is the model and the step count.

    Its running statistics are its own, of the images that it labels, as in DAFormer's public code:
    the student's are of masked views, and say nothing before some steps have been done. Those of
    the source, where batch norm has both, follow the student.
    """

    def __init__(self, student: nn.Module, alpha: float) -> None:
        self.model = copy.deepcopy(student).requires_grad_(False)
        self._alpha = alpha
        self._steps = 0

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Move towards the student, by 1 - min(1 - 1 / (t + 1), alpha) at step t, from 0.

        So at first it is the plain mean of all students so far, initial weights left out.
        """
        alpha = min(1 - 1 / (self._steps + 1), self._alpha)
        lerp_towards(list(_followed(self.model)), list(_followed(student)), 1 - alpha)
        self._steps += 1

    @torch.no_grad()
    def pseudo_labels(
        self, images: torch.Tensor, threshold: float, counted: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Classes `(N, H, W)` int64 of normalised images, and how far to trust each image `(N,)`.

        That is the share of its pixels, of `counted` `(N, H, W)` bool ones where given, whose
        highest probability is at least `threshold`. Batch norm computes as in training, unless it
        is frozen; dropout and the like are off.
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
        shares = (sure * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)
        return labels, shares

    def state_dict(self) -> dict[str, Any]:
        """The model's state and the number of updates."""
        return {"model": self.model.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self._steps = int(state["steps"])


def _followed(model: nn.Module) -> Iterator[torch.Tensor]:
    own = {
        id(getattr(layer, statistic)) for layer in batch_norms(model) for statistic in STATISTICS
    }
    yield from model.parameters()
    yield from (buffer for buffer in model.buffers() if id(buffer) not in own)
