"""The discriminator: of which domain is a piece of a prediction? Architecture and input."""

import math

import torch
from torch import nn

from downstream.uda.config import DiscriminatorInput

_WIDTHS = (64, 128, 256, 512)


class Discriminator(nn.Module):
    """Five 4 x 4 convolutions of stride 2 (Tsai et al. 2018, arXiv:1802.10349, section 4).

    No normalisation, no final activation: takes `(N, C, H, W)`, sides of at least 32 pixels, gives
    logits `(N, 1, H // 32, W // 32)`, above 0 for "target". Each sees 94 x 94 pixels. Computes in
    float32, under autocast too.
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
    """The channels of `discriminator_input`."""
    return 1 if kind == "softmax" and classes == 2 else classes


def discriminator_input(logits: torch.Tensor, kind: DiscriminatorInput) -> torch.Tensor:
    """What a discriminator sees of logits `(N, C, H, W)`: float32 maps in 0 to 1.

    `softmax`: the probabilities (Tsai et al., section 3.2); of two classes the second's alone, of
    which the first's is no news. `entropy`: weighted self-information -p log p over log C (Vu et
    al. 2019, arXiv:1811.12833, section 3.2), of two classes both, since their sum could not tell
    certain phase from certain ground.
    """
    logs = logits.float().log_softmax(1)
    if kind == "entropy":
        return -(logs.exp() * logs) / math.log(logits.shape[1])
    probabilities = logs.exp()
    return probabilities[:, 1:] if logits.shape[1] == 2 else probabilities
