"""The classifier: smp's own encoder with a linear head, so that an export loads in smp."""

from typing import Any

import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from segmentation_models_pytorch.encoders import TimmViTEncoder, get_encoder
from torch import nn
from torch.nn import functional

from micrograph.cli import UserError
from pretrain.cards.archs import TIMM_PREFIX, find_arch
from pretrain.network.init import resolve_init
from pretrain.network.timm_models import build_timm_encoder, freeze_unused, pretrained_tag
from pretrain.network.weights import load_encoder
from pretrain.registry.storage.hub_access import hub_or_cache


class Classifier(nn.Module):
    """Encoder, global average pooling, dropout, linear layer.

    `forward` takes `(N, 3, H, W)` float images and returns `(N, classes)` logits.
    """

    def __init__(self, arch: str, encoder: nn.Module, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self._head_input = find_arch(arch).head_input
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(self._feature_channels(), classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.dropout(self.pool(self.features(images))))  # type: ignore[no-any-return]

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The deepest feature map, `(N, C, h, w)`, as the head takes it (archs.HeadInput)."""
        encoder: Any = self.encoder  # smp publishes no types
        if isinstance(encoder, TimmViTEncoder):
            maps, _prefix_tokens = encoder(images)
            tokens = encoder.model.norm(maps[-1].permute(0, 2, 3, 1))
            return tokens.permute(0, 3, 1, 2)  # type: ignore[no-any-return]
        features: torch.Tensor = encoder(images)[-1]
        if self._head_input == "relu":
            return functional.relu(features)
        if self._head_input == "efficientnet_head":
            return functional.silu(encoder._bn1(encoder._conv_head(features)))
        return features

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Average over positions, `(N, C)`; some vision transformers normalise after it."""
        pooled = features.mean((2, 3))
        encoder: Any = self.encoder
        if isinstance(encoder, TimmViTEncoder) and hasattr(encoder.model, "fc_norm"):
            return encoder.model.fc_norm(pooled)  # type: ignore[no-any-return]
        return pooled

    def _feature_channels(self) -> int:
        encoder: Any = self.encoder
        if self._head_input == "efficientnet_head":
            return int(encoder._conv_head.out_channels)
        return int(encoder.out_channels[-1])


def build_encoder(arch: str, init: str) -> nn.Module:
    """smp's encoder for `arch`; `init` is `random`, `imagenet`, an export's folder or a name.

    Raises `UserError` if the weights are not available or do not fit.
    """
    source = resolve_init(init)
    if source.kind == "imagenet":
        return _from_imagenet(arch)
    encoder = bare_encoder(arch)
    if source.path is None:
        init_random(encoder, arch)
    else:
        load_encoder(encoder, arch, source.path)
    return encoder


def build_classifier(
    arch: str, init: str, classes: int, dropout: float, image_size: int | None = None
) -> Classifier:
    """The classifier to train; uses torch's global generator.

    Raises `UserError` as `build_encoder` does, and if the encoder cannot take `image_size`.
    """
    model = Classifier(arch, build_encoder(arch, init), classes, dropout)
    if arch.startswith(TIMM_PREFIX):  # the table knows the sizes of the others (`min_size`)
        freeze_unused(model, arch, image_size)
    return model


def bare_encoder(arch: str) -> nn.Module:
    """smp's encoder for `arch`, with arbitrary weights."""
    if arch.startswith(TIMM_PREFIX):
        return build_timm_encoder(arch)
    find_arch(arch)  # its error says more than smp's
    encoder: nn.Module = get_encoder(arch, weights=None)
    return encoder


def imagenet_tag(arch: str) -> str:
    """The name, in smp or timm, of the weights that `--init imagenet` takes."""
    return find_arch(arch).weight_tag or pretrained_tag(arch)


def init_random(encoder: nn.Module, arch: str) -> None:
    """Paper A's initialisation; timm's models keep their own."""
    if not arch.startswith(TIMM_PREFIX):
        init_kaiming(encoder)


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


def _from_imagenet(arch: str) -> nn.Module:
    tag = imagenet_tag(arch)
    with hub_or_cache() as obstacle:
        try:
            if arch.startswith(TIMM_PREFIX):
                return build_timm_encoder(arch, pretrained=True)
            encoder: nn.Module = get_encoder(arch, weights=tag)
        except UserError:
            raise
        except Exception as error:  # the hub client raises errors of many libraries
            absent = obstacle and isinstance(error, LocalEntryNotFoundError)
            reason = f"{obstacle}, and they are not in the cache" if absent else error
            raise UserError(
                f"cannot get the ImageNet weights {tag!r} of {arch}: {reason}; they come from the "
                "Hugging Face hub: connect, fill its cache beforehand, or use --init random"
            ) from error
    return encoder
