"""Any timm model as an encoder: the one of smp's two wrappers that fits, and its options.

smp wraps a model whose features have several resolutions (ConvNeXt, Swin) in
`TimmUniversalEncoder`, one with a single resolution (ViT) in `TimmViTEncoder`, which its DPT needs.
That wrapper is what is trained.
"""

from functools import lru_cache
from typing import Any, Literal

import timm
import torch
from segmentation_models_pytorch.encoders import TimmUniversalEncoder, TimmViTEncoder
from torch import nn

from micrograph.cli import UserError, warn
from micrograph.settings import nearest
from pretrain.cards.archs import TIMM_PREFIX, find_arch

FeatureType = Literal["pyramid", "vit"]


def build_timm_encoder(arch: str, *, pretrained: bool = False) -> nn.Module:
    """smp's encoder for `tu-NAME`: with timm's published weights, or with timm's own random ones.

    Raises `UserError` when timm has no such model or smp cannot take its features.
    """
    name = find_arch(arch).timm_name
    if feature_type(arch) == "pyramid":
        encoder: nn.Module = TimmUniversalEncoder(name, pretrained, **encoder_options(arch))
    else:
        encoder = TimmViTEncoder(name, pretrained, **encoder_options(arch))
    return encoder


@lru_cache
def feature_type(arch: str) -> FeatureType:
    """Whether the features have several resolutions or one. Raises `UserError` for neither."""
    name = find_arch(arch).timm_name
    _require_model(name)
    try:
        with torch.random.fork_rng(devices=()), torch.device("meta"):
            strides = timm.create_model(name, features_only=True).feature_info.reduction()
    except (RuntimeError, NotImplementedError, AssertionError, AttributeError) as error:
        raise UserError(f"{arch} gives no feature maps: {error}") from error
    if len(set(strides)) == 1:
        return "vit"
    # smp's wrapper needs each stride to be twice the one before, the first 1, 2 or 4.
    if strides[0] in (1, 2, 4) and strides == [strides[0] << i for i in range(len(strides))]:
        return "pyramid"
    raise UserError(
        f"the feature maps of {arch} have strides {strides}; smp takes strides that double "
        "(4, 8, 16, 32) or stay the same (16, 16, 16)"
    )


def encoder_options(arch: str) -> dict[str, Any]:
    """Options that smp needs with the name: `smp.Unet(arch, **encoder_options(arch))`.

    A model made for one image size takes any, where timm supports that.
    """
    if not arch.startswith(TIMM_PREFIX):
        return {}
    # A ViT's wrapper holds the whole model; its ImageNet classifier would get no gradient.
    options: dict[str, Any] = {"num_classes": 0} if feature_type(arch) == "vit" else {}
    if _is_made_for_one_size(arch) and _takes_any_size(arch):
        options["dynamic_img_size"] = True
    return options


def freeze_unused(model: nn.Module, arch: str, image_size: int | None) -> None:
    """Freeze parameters that the deepest feature map does not depend on; DDP would wait for them.

    They are rare: the other resolutions of HRNet, the attention pooling of SigLIP's ViT. Raises
    `UserError` when `model` takes no images of `image_size` [the model's own].
    """
    own = timm.get_pretrained_cfg(find_arch(arch).timm_name).input_size[-1]
    size = image_size or own
    was_training = model.training
    try:
        model.eval()(torch.zeros(1, 3, size, size)).sum().backward()
    except TypeError as error:  # smp passes an argument that this model lacks
        raise UserError(f"smp cannot take the features of {arch}: {error}") from error
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{arch} does not take images of {size} pixels: {error}; it was made for {own}, "
            f"so --image-size {own} works"
        ) from error
    finally:
        model.train(was_training)
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    for name in unused:
        model.get_parameter(name).requires_grad_(False)
    model.zero_grad(set_to_none=True)
    if unused:
        warn(f"{len(unused)} tensors of {arch} are unused, first {unused[0]}: not trained")


def pretrained_tag(arch: str) -> str:
    """The tag of timm's published weights. Raises `UserError` when there are none."""
    name = find_arch(arch).timm_name
    _require_model(name)
    if not timm.is_model_pretrained(name):
        raise UserError(f"timm publishes no weights of {arch}; use --init random")
    return str(timm.get_pretrained_cfg(name).tag)


def _require_model(name: str) -> None:
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        like = nearest(base, timm.list_models())
        hint = f"; nearest is {TIMM_PREFIX + like!r}" if like else ""
        raise UserError(f"timm {timm.__version__} has no model {base!r}{hint}")
    known = timm.list_models(f"{base}.*", pretrained=True)
    if tag and name not in known:
        tags = ", ".join(other.partition(".")[2] for other in known) or "none"
        raise UserError(f"timm's {base} has no weights {tag!r}; it has: {tags}")


def _is_made_for_one_size(arch: str) -> bool:
    return bool(timm.get_pretrained_cfg(find_arch(arch).timm_name).fixed_input_size)


@lru_cache
def _takes_any_size(arch: str) -> bool:
    try:
        with torch.random.fork_rng(devices=()), torch.device("meta"):
            timm.create_model(find_arch(arch).timm_name, dynamic_img_size=True)
    except TypeError:  # not an argument of this model
        return False
    return True
