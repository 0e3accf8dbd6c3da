"""Self-training: a mean teacher labels target images, and the student sees them masked.

The teacher is a moving average of the student (Tarvainen and Valpola 2017, arXiv:1703.01780,
section 2); pseudo-labels and weights as in Hoyer et al. 2022 (DAFormer, arXiv:2111.14887), section
3.1, but per image, not per batch; masks as in Hoyer et al. 2023 (MIC, arXiv:2212.01322), section
3.2.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torchvision.transforms import v2

from downstream.adaptation.config import AdaptConfig
from downstream.adaptation.methods.batchnorm import STATISTICS, batch_norms
from downstream.adaptation.methods.method import (
    StepMetrics,
    TargetBatch,
    class_fractions,
    cross_entropy,
)
from downstream.domains.batches import seed_stream
from downstream.domains.tile_plan import IGNORE
from downstream.network.segmenter import Segmenter
from pretrain.training.ema import lerp_towards

_JITTER = 0.2  # of brightness, contrast, saturation on the masked view (MIC; hue: grey has none)
# In MIC's code, color_jitter_probability = 0.2 is the fraction without jitter.
_JITTER_PROB = 0.8
_BLUR_PROB = 0.5  # MIC


class SelfTraining:
    """Train a student on masked views of target images with the labels of a mean teacher."""

    def __init__(self, config: AdaptConfig, segmenter: Segmenter, classes: int) -> None:
        self._config, self._classes = config, classes
        self._normalise = segmenter.normalise
        self.teacher = Teacher(segmenter.model, config.ema)
        self._jitter = v2.Compose(
            [
                v2.RandomApply([v2.ColorJitter(_JITTER, _JITTER, _JITTER)], _JITTER_PROB),
                v2.RandomApply([v2.GaussianBlur(5, (0.15, 1.15))], _BLUR_PROB),
            ]
        )

    def backward(self, batch: TargetBatch) -> StepMetrics:
        """Gradients of the student's weighted loss on its view of the images."""
        config = self._config
        valid = batch.counted != IGNORE
        pseudo, weight = self.teacher.pseudo_labels(
            self._normalise(batch.images), config.pseudo_threshold, valid
        )
        labels = torch.where(valid, pseudo, IGNORE)
        logits = batch.predict(self.student_view(batch.images, batch.step), "masked_network").main
        loss = config.teacher_weight * cross_entropy(logits, labels, weight)
        loss.backward()  # type: ignore[no-untyped-call]
        return class_fractions("teacher_fraction_", pseudo[valid], self._classes) | {
            "teacher_confidence": float(weight.mean()),
            "loss_consistency": float(loss.detach()),
        }

    def student_view(self, images: torch.Tensor, step: int) -> torch.Tensor:
        """Images `(N, 3, H, W)` uint8 jittered, normalised and masked."""
        config = self._config
        seed_stream(config.seed, "masking", step)
        view = self._normalise(torch.stack([self._jitter(image) for image in images]))
        return masked_view(view, config.mask_block, config.mask_ratio)

    def update(self, student: nn.Module, step: int) -> None:
        self.teacher.update(student)

    def state_dict(self) -> dict[str, Any]:
        return self.teacher.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.teacher.load_state_dict(state)


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


def masked_view(
    images: torch.Tensor, block: int, ratio: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Normalised images `(N, C, H, W)` with square blocks set to 0, the mean grey.

    Each block of `block` pixels (clipped at the right and lower border) is independently hidden
    with probability `ratio`. Random numbers are drawn on the CPU [torch's global generator], so
    that a seed gives the same result on any device.
    """
    count, _, height, width = images.shape
    cells = (count, 1, -(-height // block), -(-width // block))
    kept = torch.rand(cells, generator=generator) >= ratio
    fine = kept.repeat_interleave(block, 2).repeat_interleave(block, 3)[..., :height, :width]
    return images * fine.to(images.device)
