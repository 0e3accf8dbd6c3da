"""Losses of adversarial adaptation: the segmenter's and the discriminator's.

Tsai et al. 2018 (arXiv:1802.10349), equations 1 and 3. Source is 0 and target 1, as in their code
(their equation is the reverse, which is equivalent).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from downstream.adaptation.config import DiscriminatorInput, DomainName, Gan
from downstream.adaptation.discriminator import Discriminator, discriminator_input

_LABELS: dict[DomainName, float] = {"source": 0.0, "target": 1.0}


def domain_loss(output: torch.Tensor, domain: DomainName, gan: Gan) -> torch.Tensor:
    """The loss of a discriminator's output with `domain` as label; ln 2 for logits of 0 (bce).

    `bce`: binary cross entropy. `ls`: squared distance of the raw output (Mao et al. 2017,
    arXiv:1611.04076, equation 2).
    """
    labels = torch.full_like(output, _LABELS[domain])
    if gan == "bce":
        return functional.binary_cross_entropy_with_logits(output, labels)
    return functional.mse_loss(output, labels)


def adversarial_loss(
    discriminator: Discriminator,
    target_logits: torch.Tensor,
    kind: DiscriminatorInput,
    gan: Gan,
) -> torch.Tensor:
    """The segmenter's loss: target predictions should be classified as source.

    The discriminator gets no gradient.
    """
    with frozen(discriminator):
        output = discriminator(discriminator_input(target_logits, kind))
    return domain_loss(output, "source", gan)


def discriminator_loss(
    discriminator: Discriminator,
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
def frozen(module: nn.Module) -> Iterator[None]:
    """Pass gradients through `module` without accumulating them in its parameters."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
