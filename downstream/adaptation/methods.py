"""Adaptation methods beyond supervised training on the source: adversarial and self-training.

Each returns a loss on target images and manages its own state, so the training loop is independent
of the method.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from downstream.adaptation.adversary import adversarial_loss, discriminator_loss
from downstream.adaptation.config import AdaptConfig, DiscriminatorInput
from downstream.adaptation.discriminator import Discriminator, input_channels
from downstream.adaptation.masking import masked_view
from downstream.adaptation.teacher import Teacher
from downstream.domains.batches import seed_stream
from downstream.domains.tile_plan import IGNORE
from downstream.network.segmenter import Segmenter

_DISCRIMINATOR_BETAS = (0.9, 0.99)  # AdaptSegNet
_JITTER = 0.2  # of brightness, contrast, saturation on the masked view (MIC; hue: grey has none)
# In MIC's code, color_jitter_probability = 0.2 is the fraction without jitter.
_JITTER_PROB = 0.8
_BLUR_PROB = 0.5  # MIC

Measured = dict[str, float]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Logits `(N, C, H, W)` float32 of one domain, from the main and any auxiliary head."""

    main: torch.Tensor
    aux: torch.Tensor | None

    def levels(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The logits by head: `main`, and `aux` if there is one."""
        yield "main", self.main
        if self.aux is not None:
            yield "aux", self.aux


def cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over the pixels that are not IGNORE; 0 without any.

    `logits` `(N, C, H, W)`, `target` `(N, H, W)` int64; `weight` `(N,)` weights the images. For two
    classes with logits `(0, z)` this is the binary cross entropy of z.
    """
    losses = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    if weight is not None:
        losses = losses * weight[:, None, None]
    return losses.sum() / (target != IGNORE).sum().clamp(min=1)


class Adversary:
    """A discriminator per head, with their losses and optimizer."""

    def __init__(
        self,
        config: AdaptConfig,
        kind: DiscriminatorInput,
        classes: int,
        context_margin: int,
        device: torch.device,
    ) -> None:
        self._config, self._kind = config, kind
        self._margin = context_margin if config.discriminator_crop == "tile_core" else 0
        self._weights = {"main": config.adv_weight}
        if config.has_aux:
            self._weights["aux"] = config.adv_aux_weight
        channels = input_channels(classes, self._kind)
        seed_stream(
            config.seed, "discriminators", 0
        )  # does not affect the segmenter's random numbers
        self.discriminators = nn.ModuleDict(
            {level: Discriminator(channels) for level in self._weights}
        )
        self.discriminators.to(device)
        self.optimizer = torch.optim.Adam(
            self.discriminators.parameters(), lr=config.discriminator_lr, betas=_DISCRIMINATOR_BETAS
        )

    def adversarial_loss(self, target: Outputs) -> torch.Tensor:
        """The segmenter's loss, summed over the heads."""
        losses = [
            self._weights[level]
            * adversarial_loss(
                self._discriminator(level), self._crop(logits), self._kind, self._config.gan
            )
            for level, logits in target.levels()
        ]
        return torch.stack(losses).sum()

    def train_discriminators(self, source: Outputs, target: Outputs) -> Measured:
        """Compute the gradients of the discriminators; return their losses and accuracies."""
        self.optimizer.zero_grad(set_to_none=True)
        measured: Measured = {}
        for (level, on_source), (_, on_target) in zip(
            source.levels(), target.levels(), strict=True
        ):
            loss, accuracy = discriminator_loss(
                self._discriminator(level),
                self._crop(on_source),
                self._crop(on_target),
                self._kind,
                self._config.gan,
            )
            loss.backward()  # type: ignore[no-untyped-call]
            measured |= {
                f"discriminator_loss_{level}": float(loss.detach()),
                f"discriminator_accuracy_{level}": float(accuracy),
            }
        return measured

    def step(self, lr: float) -> None:
        """Update the discriminators with the gradients of `train_discriminators`."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer state."""
        return {
            "discriminators": self.discriminators.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.discriminators.load_state_dict(state["discriminators"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _discriminator(self, level: str) -> Discriminator:
        discriminator = self.discriminators[level]
        assert isinstance(discriminator, Discriminator)
        return discriminator

    def _crop(self, logits: torch.Tensor) -> torch.Tensor:
        core = slice(self._margin, -self._margin if self._margin else None)
        return logits[..., core, core]


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

    def consistency(
        self,
        predict: Callable[[torch.Tensor], torch.Tensor],
        images: torch.Tensor,
        counted: torch.Tensor,
        step: int,
    ) -> tuple[torch.Tensor, Measured]:
        """The student's weighted loss on target images `(N, 3, H, W)` uint8, and metrics.

        `predict` returns the student's logits; pixels with IGNORE in `counted` `(N, H, W)` are not
        used.
        """
        config = self._config
        valid = counted != IGNORE
        pseudo, weight = self.teacher.pseudo_labels(
            self._normalise(images), config.pseudo_threshold, valid
        )
        labels = torch.where(valid, pseudo, IGNORE)
        seed_stream(config.seed, "masking", step)
        view = self._normalise(images)
        if config.masking:
            view = self._normalise(torch.stack([self._jitter(image) for image in images]))
            view = masked_view(view, config.mask_block, config.mask_ratio)
        loss = config.teacher_weight * cross_entropy(predict(view), labels, weight)
        fractions = class_fractions("teacher_fraction_", pseudo[valid], self._classes)
        return loss, fractions | {"teacher_confidence": float(weight.mean())}

    def update(self, student: nn.Module) -> None:
        """Update the teacher after a step of the student."""
        self.teacher.update(student)

    def state_dict(self) -> dict[str, Any]:
        """The teacher's weights and statistics."""
        return self.teacher.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.teacher.load_state_dict(state)


def class_fractions(prefix: str, labels: torch.Tensor, classes: int) -> Measured:
    """The fraction of each class among labels `(n,)`, by `prefix` and class index."""
    counts = torch.bincount(labels.flatten().long(), minlength=classes)
    fractions = (counts / counts.sum().clamp(min=1)).tolist()
    return {f"{prefix}{index}": fraction for index, fraction in enumerate(fractions)}
