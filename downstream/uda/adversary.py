"""The two sides of the adversarial game: the segmenter's loss, and the discriminator's.

Tsai et al. 2018 (arXiv:1802.10349), equations 1 and 3. Source is 0 and target 1, as in their code
(their equation has it the other way round, which changes nothing).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from downstream.uda.config import DiscriminatorInput, DomainName, Gan
from downstream.uda.discriminator import Discriminator, discriminator_input

_LABELS: dict[DomainName, float] = {"source": 0.0, "target": 1.0}


def gan_loss(judged: torch.Tensor, domain: DomainName, gan: Gan) -> torch.Tensor:
    """How far a discriminator's logits are from naming `domain`; ln 2 where it has no idea (bce).

    `bce`: binary cross entropy. `ls`: squared distance of the raw output (Mao et al. 2017,
    arXiv:1611.04076, equation 2).
    """
    wanted = torch.full_like(judged, _LABELS[domain])
    if gan == "bce":
        return functional.binary_cross_entropy_with_logits(judged, wanted)
    return functional.mse_loss(judged, wanted)


def adversarial_loss(
    discriminator: Discriminator, target_logits: torch.Tensor, kind: DiscriminatorInput, gan: Gan
) -> torch.Tensor:
    """The segmenter's loss: low where its prediction of a target image passes for a source one.

    The discriminator gets no gradient from it.
    """
    with frozen(discriminator):
        judged = discriminator(discriminator_input(target_logits, kind))
    return gan_loss(judged, "source", gan)


def discriminator_loss(
    discriminator: Discriminator,
    source_logits: torch.Tensor,
    target_logits: torch.Tensor,
    kind: DiscriminatorInput,
    gan: Gan,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The discriminator's loss in telling the domains apart, and its accuracy.

    Each domain has half the weight. The segmenter gets no gradient from it.
    """
    source = discriminator(discriminator_input(source_logits.detach(), kind))
    target = discriminator(discriminator_input(target_logits.detach(), kind))
    loss = (gan_loss(source, "source", gan) + gan_loss(target, "target", gan)) / 2
    return loss, accuracy(source, target, gan)


def accuracy(source: torch.Tensor, target: torch.Tensor, gan: Gan) -> torch.Tensor:
    """Share of a discriminator's outputs on the right side, each domain with half the weight."""
    boundary = 0.0 if gan == "bce" else 0.5
    rights = (
        (source.detach() < boundary).float().mean(),
        (target.detach() > boundary).float().mean(),
    )
    return (rights[0] + rights[1]) / 2


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Keep gradients passing through `module` from its own parameters."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
