"""Adversarial adaptation: discriminators tell the domains apart by the segmenter's predictions.

Tsai et al. 2018 (AdaptSegNet, arXiv:1802.10349), equations 1 and 3; on entropies Vu et al. 2019
(ADVENT, arXiv:1811.12833). Source is 0 and target 1, as in the code of Tsai et al. (their equation
is the reverse, which is equivalent).
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from downstream.adaptation.config import AdaptConfig, DiscriminatorInput, DomainName, Gan
from downstream.adaptation.lr_schedule import learning_rate
from downstream.adaptation.methods.method import (
    Outputs,
    StepMetrics,
    TargetBatch,
    class_fractions,
)
from downstream.domains.batches import seed_stream
from downstream.domains.study import DomainStudy
from downstream.domains.tile_plan import IGNORE
from downstream.network.segmenter import Segmenter

_BETAS = (0.9, 0.99)  # of the discriminators' Adam (AdaptSegNet)
_WIDTHS = (64, 128, 256, 512)
_LABELS: dict[DomainName, float] = {"source": 0.0, "target": 1.0}


class AdversarialTraining:
    """A discriminator per head, with their losses and optimizer."""

    def __init__(
        self,
        config: AdaptConfig,
        kind: DiscriminatorInput,
        segmenter: Segmenter,
        study: DomainStudy,
    ) -> None:
        self._config, self._kind, self._classes = config, kind, len(study.classes)
        self._normalise = segmenter.normalise
        self._margin = study.context_margin if config.discriminator_crop == "tile_core" else 0
        self._weights = {"main": config.adv_weight}
        if config.has_aux:
            self._weights["aux"] = config.adv_aux_weight
        channels = input_channels(self._classes, kind)
        # A stream of its own: the segmenter's random numbers stay those of source_only.
        seed_stream(config.seed, "discriminators", 0)
        self.discriminators = nn.ModuleDict(
            {level: Discriminator(channels) for level in self._weights}
        ).to(segmenter.device)
        self.optimizer = torch.optim.Adam(
            self.discriminators.parameters(), lr=config.discriminator_lr, betas=_BETAS
        )

    def backward(self, batch: TargetBatch) -> StepMetrics:
        """Gradients of the segmenter, then of the discriminators on the same predictions."""
        target = batch.predict(self._normalise(batch.images), "target_network")
        loss = self.adversarial_loss(target)
        loss.backward()  # type: ignore[no-untyped-call]
        metrics = {"loss_adversarial": float(loss.detach())}
        metrics |= self.discriminator_gradients(batch.source, target)
        predicted = target.main.detach().argmax(1)[batch.counted != IGNORE]
        return metrics | class_fractions("student_fraction_", predicted, self._classes)

    def adversarial_loss(self, target: Outputs) -> torch.Tensor:
        """The segmenter's loss, summed over the heads."""
        losses = [
            self._weights[level]
            * adversarial_loss(
                self.discriminators[level], self._crop(logits), self._kind, self._config.gan
            )
            for level, logits in target.levels()
        ]
        return torch.stack(losses).sum()

    def discriminator_gradients(self, source: Outputs, target: Outputs) -> StepMetrics:
        """Compute the gradients of the discriminators; return their losses and accuracies."""
        self.optimizer.zero_grad(set_to_none=True)
        metrics: StepMetrics = {}
        for (level, on_source), (_, on_target) in zip(
            source.levels(), target.levels(), strict=True
        ):
            loss, accuracy = discriminator_loss(
                self.discriminators[level],
                self._crop(on_source),
                self._crop(on_target),
                self._kind,
                self._config.gan,
            )
            loss.backward()  # type: ignore[no-untyped-call]
            metrics |= {
                f"discriminator_loss_{level}": float(loss.detach()),
                f"discriminator_accuracy_{level}": float(accuracy),
            }
        return metrics

    def update(self, student: nn.Module, step: int) -> None:
        """Step the discriminators; their learning rate has no warm-up."""
        lr = learning_rate(self._config, step, self._config.discriminator_lr, warmup=0)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {
            "discriminators": self.discriminators.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.discriminators.load_state_dict(state["discriminators"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _crop(self, logits: torch.Tensor) -> torch.Tensor:
        core = slice(self._margin, -self._margin if self._margin else None)
        return logits[..., core, core]


class Discriminator(nn.Module):
    """Five 4 x 4 convolutions of stride 2 (Tsai et al. 2018, arXiv:1802.10349, section 4).

    Without normalisation or final activation. Maps `(N, C, H, W)`, sides of at least 32 pixels, to
    logits `(N, 1, H // 32, W // 32)`, positive for "target", with a receptive field of 94 pixels.
    Computes in float32, even under autocast.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in _WIDTHS:
            layers += [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, 2, 1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        with torch.autocast(maps.device.type, enabled=False):
            return self.layers(maps.float())  # type: ignore[no-any-return]


def input_channels(classes: int, kind: DiscriminatorInput) -> int:
    """The number of channels of `discriminator_input`."""
    return 1 if kind == "softmax" and classes == 2 else classes


def discriminator_input(logits: torch.Tensor, kind: DiscriminatorInput) -> torch.Tensor:
    """The discriminator's input for logits `(N, C, H, W)`: float32 maps from 0 to 1.

    `softmax`: the probabilities (Tsai et al., section 3.2); of two classes only the second, because
    the first is redundant. `entropy`: weighted self-information -p log p over log C (Vu et al.,
    section 3.2), also for both of two classes, because their sum does not distinguish a certain
    foreground from a certain background.
    """
    logs = logits.float().log_softmax(1)
    if kind == "entropy":
        return -(logs.exp() * logs) / math.log(logits.shape[1])
    probabilities = logs.exp()
    return probabilities[:, 1:] if logits.shape[1] == 2 else probabilities


def domain_loss(output: torch.Tensor, domain: DomainName, gan: Gan) -> torch.Tensor:
    """The loss of a discriminator's output with `domain` as label; ln 2 for logits of 0 (bce).

    `bce`: binary cross entropy. `ls`: squared distance of the raw output (Mao et al. 2017,
    arXiv:1611.04076, equation 2).
    """
    labels = torch.full_like(output, _LABELS[domain])
    if gan == "bce":
        return F.binary_cross_entropy_with_logits(output, labels)
    return F.mse_loss(output, labels)


def adversarial_loss(
    discriminator: nn.Module,
    target_logits: torch.Tensor,
    kind: DiscriminatorInput,
    gan: Gan,
) -> torch.Tensor:
    """The segmenter's loss: target predictions should be classified as source.

    The discriminator gets no gradient.
    """
    with _frozen(discriminator):
        output = discriminator(discriminator_input(target_logits, kind))
    return domain_loss(output, "source", gan)


def discriminator_loss(
    discriminator: nn.Module,
    source_logits: torch.Tensor,
    target_logits: torch.Tensor,
    kind: DiscriminatorInput,
    gan: Gan,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The discriminator's loss and accuracy; each domain has half the weight.

    The segmenter gets no gradient.
    """
    source = discriminator(discriminator_input(source_logits.detach(), kind))
    target = discriminator(discriminator_input(target_logits.detach(), kind))
    loss = (domain_loss(source, "source", gan) + domain_loss(target, "target", gan)) / 2
    return loss, accuracy(source, target, gan)


def accuracy(source: torch.Tensor, target: torch.Tensor, gan: Gan) -> torch.Tensor:
    """Fraction of correct outputs of a discriminator; each domain has half the weight."""
    boundary = 0.0 if gan == "bce" else 0.5
    on_source = (source.detach() < boundary).float().mean()
    on_target = (target.detach() > boundary).float().mean()
    return (on_source + on_target) / 2


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Pass gradients through `module` without accumulating them in its parameters."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
