"""The domain discriminator of adversarial adaptation: architecture and input."""

import math

import torch
from torch import nn

from downstream.adaptation.config import DiscriminatorInput

_WIDTHS = (64, 128, 256, 512)


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
    the first is redundant. `entropy`: weighted self-information -p log p over log C (Vu et al.
    2019, arXiv:1811.12833, section 3.2), also for both of two classes, because their sum does not
    distinguish a certain foreground from a certain background.
    """
    logs = logits.float().log_softmax(1)
    if kind == "entropy":
        return -(logs.exp() * logs) / math.log(logits.shape[1])
    probabilities = logs.exp()
    return probabilities[:, 1:] if logits.shape[1] == 2 else probabilities
