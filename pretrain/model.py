"""The network that is trained: smp's own encoder, so that what is exported is what smp loads."""

from pathlib import Path
from typing import Any

import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn
from torch.nn import functional

from pretrain.archs import find_arch
from pretrain.weights import load_encoder
from shards.cli import UserError


class Classifier(nn.Module):
    """Encoder, global average pooling, dropout, linear layer.

    `forward` takes `(N, 3, H, W)` float images and returns `(N, classes)` logits.
    """

    def __init__(self, arch: str, encoder: nn.Module, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self._head_input = find_arch(arch).head_input
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(self._features(), classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self._before_pooling(self.encoder(images)[-1])
        return self.linear(self.dropout(features.mean((2, 3))))  # type: ignore[no-any-return]

    def _before_pooling(self, features: torch.Tensor) -> torch.Tensor:
        """Complete what smp's encoder leaves out of the original network (archs.HeadInput)."""
        if self._head_input == "relu":
            return functional.relu(features)
        if self._head_input == "efficientnet_head":
            encoder: Any = self.encoder
            return functional.silu(encoder._bn1(encoder._conv_head(features)))
        return features

    def _features(self) -> int:
        encoder: Any = self.encoder  # smp publishes no types
        if self._head_input == "efficientnet_head":
            return int(encoder._conv_head.out_channels)
        return int(encoder.out_channels[-1])


def build_encoder(arch: str, init: str) -> nn.Module:
    """smp's encoder for `arch`, with `init` weights: `random`, `imagenet`, or an export's path.

    Raises `UserError` when the weights cannot be had or do not fit.
    """
    spec = find_arch(arch)
    if init == "imagenet":
        return _from_imagenet(arch, spec.weight_tag)
    encoder: nn.Module = get_encoder(arch, weights=None)
    if init == "random":
        init_kaiming(encoder)
    else:
        load_encoder(encoder, arch, Path(init))
    return encoder


def build_classifier(arch: str, init: str, classes: int, dropout: float) -> Classifier:
    """The classifier to train; draws from torch's global generator."""
    return Classifier(arch, build_encoder(arch, init), classes, dropout)


def init_kaiming(module: nn.Module) -> None:
    """He et al. 2015, eq. 10, for every convolution; batch norm starts as the identity.

    Explicit, because smp leaves dpn, efficientnet, inception, xception and the SE nets at torch's
    default, 0.41 of it. By fan-in, which is also right for depthwise and grouped convolutions.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def _from_imagenet(arch: str, tag: str) -> nn.Module:
    try:
        encoder: nn.Module = get_encoder(arch, weights=tag)
    except Exception as error:  # the hub client raises many kinds, its own and requests'
        raise UserError(
            f"cannot get the ImageNet weights {tag!r} of {arch}: {error}; they come from the "
            "Hugging Face hub: connect, fill its cache beforehand, or use --init random"
        ) from error
    return encoder
