"""What training minimises: the loss of one micro-batch, and its targets."""

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import nn
from torch.nn import functional

from pretrain.config import Loss, TrainConfig
from pretrain.loading.class_balance import class_weights
from pretrain.loading.loader import Batch
from pretrain.loading.mixup import mix
from pretrain.loading.sample_order import Ids


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """The loss of a model on a batch; a sum over samples, so that micro-batches add up."""

    config: TrainConfig
    classes: int
    weights: torch.Tensor | None  # (classes,) float32, of mean 1 over the training images

    def __call__(self, model: nn.Module, batch: Batch, epoch: int) -> torch.Tensor:
        """The summed loss, a scalar, of a training batch, mixed if the settings say so."""
        if not self.config.mixes:
            return self.loss(model(batch.images), batch.labels)
        images, targets = mix(self.config, epoch, batch, self.classes)
        return self.loss(model(images), targets)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Summed loss of `(N, classes)` logits; targets: `(N,)` labels or `(N, classes)` fractions.

        `bce` is paper B's (section 2.4.2): a sigmoid per class, averaged over the classes.
        """
        kind: Loss = self.config.loss
        if kind == "cross_entropy":
            return functional.cross_entropy(
                logits,
                targets,
                weight=self.weights,
                reduction="sum",
                label_smoothing=self.config.label_smoothing,
            )
        if kind == "bce":
            return self._binary_cross_entropy(logits, targets)
        assert_never(kind)

    def _binary_cross_entropy(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        fractions = targets
        if targets.ndim == 1:
            fractions = functional.one_hot(targets, self.classes).float()
        smoothing = self.config.label_smoothing
        smoothed = fractions * (1 - smoothing) + smoothing / self.classes
        losses = functional.binary_cross_entropy_with_logits(
            logits.float(), smoothed, reduction="none"
        ).mean(1)
        # The weight of the true class holds for all sigmoids of the image.
        return (losses if self.weights is None else losses * (fractions @ self.weights)).sum()


def build_objective(
    config: TrainConfig, labels: Ids, classes: int, device: torch.device
) -> Objective:
    """The objective of a run; `labels` are those of all training images."""
    weights = None
    if config.class_weight_power:
        weights = torch.from_numpy(class_weights(labels, classes, config.class_weight_power)).to(
            device
        )
    return Objective(config=config, classes=classes, weights=weights)
