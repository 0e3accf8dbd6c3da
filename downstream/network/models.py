"""Create a segmentation network: an smp decoder on a pre-trained or random encoder."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders import TimmViTEncoder
from torch import nn

from downstream.network.deeplab import DeepLabV2
from micrograph.cli import UserError
from pretrain.cards.archs import ARCHS, TIMM_PREFIX, find_arch
from pretrain.cards.encoder_card import Card, read_card
from pretrain.network.classifier import init_random
from pretrain.network.timm_models import encoder_options, feature_type
from pretrain.network.weights import load_encoder
from pretrain.registry.storage.pull import find_encoder

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


def create_model(
    decoder: str,
    encoder: str | Path,
    classes: int,
    registry: str | None = None,
    decoder_options: Mapping[str, Any] = NO_OPTIONS,
) -> nn.Module:
    """Build `smp.<decoder>`, or our `DeepLabV2`, with `classes` output channels (logits).

    `encoder` is a registry name, as in `create_model("Unet", "efficientnet-b4.micronet",
    classes=3)`, or the folder of an export, both loaded strictly; or the name of an architecture,
    for random weights. `registry` is a URL that overrides the environment's; `decoder_options` are
    passed to the decoder's class. Raises `UserError` if the encoder cannot be found or loaded, or
    does not fit the decoder.
    """
    # A Path is always a file or folder.
    named_arch = isinstance(encoder, str) and is_arch(encoder)
    found = None if named_arch else find_encoder(encoder, registry)
    card = None if found is None else read_encoder_card(found)
    arch = str(encoder) if card is None else card.arch
    _check_fit(decoder, arch)
    model = bare_model(decoder, arch, classes, encoder_options(arch), decoder_options)
    part: nn.Module = model.encoder  # type: ignore[assignment]
    if found is None:
        init_random(part, arch)
    else:
        load_encoder(part, arch, found)
    return model


def bare_model(
    decoder: str,
    arch: str,
    classes: int,
    options: Mapping[str, Any],
    decoder_options: Mapping[str, Any] = NO_OPTIONS,
) -> nn.Module:
    """Build `smp.<decoder>` or `DeepLabV2` without loading weights.

    `options` are passed to the encoder, `decoder_options` to the decoder's class.
    """
    if decoder == "DeepLabV2":
        return DeepLabV2(arch, classes, options, **decoder_options)
    model: nn.Module = smp.create_model(
        arch=decoder,
        encoder_name=arch,
        encoder_weights=None,
        classes=classes,
        **options,
        **decoder_options,
    )
    return model


def read_encoder_card(location: str | Path) -> Card:
    """The card of an export, given by its folder, safetensors file or registry name."""
    path = find_encoder(location)
    return read_card(path if path.is_dir() else path.parent)


def is_arch(name: str) -> bool:
    """Whether a name means an architecture, not an entry of a registry."""
    return name in ARCHS or (name.startswith(TIMM_PREFIX) and "@" not in name)


def feature_maps(encoder: nn.Module, output: Any) -> list[torch.Tensor]:
    """The maps `(N, C, h, w)` in the output of an smp encoder, shallow ones first.

    A vision transformer also returns prefix tokens; the first map of others may be empty.
    """
    maps = output[0] if isinstance(encoder, TimmViTEncoder) else output
    return [one for one in maps if one.shape[1]]


def _check_fit(decoder: str, arch: str) -> None:
    if decoder in ("DeepLabV3Plus", "PAN") and find_arch(arch).dilates is False:
        raise UserError(
            f"{decoder} dilates its encoder, which {arch} does not support; use Unet or FPN"
        )
    is_vit = arch.startswith(TIMM_PREFIX) and feature_type(arch) == "vit"
    if is_vit != (decoder == "DPT"):
        raise UserError(
            f"{decoder} does not fit {arch}: DPT needs an encoder with a single resolution (ViT), "
            "all others need several resolutions"
        )
