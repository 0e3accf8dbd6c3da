"""The encoders that can be trained: one row per architecture, in smp's spelling. Imports no torch.

python -m pretrain.archs [--json]        prints the table
"""

from dataclasses import dataclass
from typing import Literal

from micrograph.cli import UserError
from micrograph.settings import nearest

# smp takes any timm model, in the table or not, with this prefix (pretrain.network.timm_models).
TIMM_PREFIX = "tu-"

# What is between the encoder's last feature map and the pooling of the classification head.
# smp's DenseNet and Xception end before the final ReLU of the original networks; its EfficientNet
# holds the original head convolution `_conv_head`/`_bn1` but leaves it out of the features.
# A timm encoder's are pooled as they are, a vision transformer's after its own final norm.
HeadInput = Literal["features", "relu", "efficientnet_head", "timm"]

# Equality of smp's and timm's deepest feature maps with the same weights.
TimmFeatures = Literal["equal", "equal at native size", "other padding"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchSpec:
    """The facts about one architecture; None where only timm knows them."""

    timm_name: str
    params: float | None  # millions, of the encoder
    weight_tag: str | None = "imagenet"  # smp's name of the ImageNet weights
    min_size: int = 16  # pixels; the smallest side of an input that is tested
    dilates: bool | None = True  # whether smp can trade stride for dilation (DeepLabV3+, PAN)
    head_input: HeadInput = "features"
    timm_features: TimmFeatures = "equal"
    lr_note: str = ""


def _spec(timm_name: str, params: float, weight_tag: str = "imagenet") -> ArchSpec:
    return ArchSpec(timm_name=timm_name, params=params, weight_tag=weight_tag)


def _vgg(timm_name: str, params: float) -> ArchSpec:
    # Paper A's VGG-11 and VGG-13 without batch norm diverged at lr 0.1 and stayed at chance.
    note = "" if timm_name.endswith("_bn") else "no batch norm: diverges at lr 0.1, try 0.01"
    return ArchSpec(timm_name=timm_name, params=params, min_size=32, dilates=False, lr_note=note)


def _densenet(timm_name: str, params: float) -> ArchSpec:
    return ArchSpec(
        timm_name=timm_name, params=params, min_size=32, dilates=False, head_input="relu"
    )


def _efficientnet(number: int, params: float) -> ArchSpec:
    return ArchSpec(
        timm_name=f"tf_efficientnet_b{number}",
        params=params,
        min_size=32,
        head_input="efficientnet_head",
        # smp pads for the native resolution, timm for the actual one; b0 agrees at multiples of 32.
        timm_features="equal" if number == 0 else "equal at native size",
    )


def _other_padding(timm_name: str, params: float, head_input: HeadInput = "features") -> ArchSpec:
    return ArchSpec(
        timm_name=timm_name,
        params=params,
        dilates=False,
        head_input=head_input,
        timm_features="other padding",
    )


ARCHS: dict[str, ArchSpec] = {
    "vgg11": _vgg("vgg11", 9.22),
    "vgg11_bn": _vgg("vgg11_bn", 9.23),
    "vgg13": _vgg("vgg13", 9.40),
    "vgg13_bn": _vgg("vgg13_bn", 9.41),
    "vgg16": _vgg("vgg16", 14.71),
    "vgg16_bn": _vgg("vgg16_bn", 14.72),
    "vgg19": _vgg("vgg19", 20.02),
    "vgg19_bn": _vgg("vgg19_bn", 20.04),
    "densenet121": _densenet("densenet121", 6.95),
    "densenet161": _densenet("densenet161", 26.47),
    "densenet169": _densenet("densenet169", 12.48),
    "densenet201": _densenet("densenet201", 18.09),
    "dpn68": _spec("dpn68", 11.78),
    "dpn68b": _spec("dpn68b", 11.78, "imagenet+5k"),
    "dpn92": _spec("dpn92", 34.98, "imagenet+5k"),
    "dpn98": _spec("dpn98", 58.88),
    "dpn107": _spec("dpn107", 84.23, "imagenet+5k"),
    "dpn131": _spec("dpn131", 76.57),
    "efficientnet-b0": _efficientnet(0, 4.01),
    "efficientnet-b1": _efficientnet(1, 6.51),
    "efficientnet-b2": _efficientnet(2, 7.70),
    "efficientnet-b3": _efficientnet(3, 10.70),
    "efficientnet-b4": _efficientnet(4, 17.55),
    "efficientnet-b5": _efficientnet(5, 28.34),
    "efficientnet-b6": _efficientnet(6, 40.74),
    "efficientnet-b7": _efficientnet(7, 63.79),
    "resnet18": _spec("resnet18", 11.18),
    "resnet34": _spec("resnet34", 21.28),
    "resnet50": _spec("resnet50", 23.51),
    "resnet101": _spec("resnet101", 42.50),
    "resnet152": _spec("resnet152", 58.14),
    "inceptionv4": _other_padding("inception_v4", 41.14),
    "inceptionresnetv2": _other_padding("inception_resnet_v2", 54.31),
    "xception": _other_padding("legacy_xception", 20.81, "relu"),
    "mobilenet_v2": _spec("mobilenetv2_100", 2.22),
    "resnext50_32x4d": _spec("resnext50_32x4d", 22.98),
    "resnext101_32x8d": _spec("resnext101_32x8d", 86.74),
    "se_resnet50": _spec("legacy_seresnet50", 26.04),
    "se_resnet101": _spec("legacy_seresnet101", 47.28),
    "se_resnet152": _spec("legacy_seresnet152", 64.77),
    "se_resnext50_32x4d": _spec("legacy_seresnext50_32x4d", 25.51),
    "se_resnext101_32x4d": _spec("legacy_seresnext101_32x4d", 46.91),
    "senet154": _spec("legacy_senet154", 113.04),
}


def find_arch(name: str) -> ArchSpec:
    """The row of `name`; for `tu-NAME` a generic one: timm is not asked whether NAME exists.

    Raises `UserError` naming the nearest architecture.
    """
    if name in ARCHS:
        return ARCHS[name]
    if name.startswith(TIMM_PREFIX):
        return _of_timm(name.removeprefix(TIMM_PREFIX))
    like = nearest(name, ARCHS)
    hint = f"nearest is {like!r}; " if like else ""
    raise UserError(
        f"unknown arch {name!r}; {hint}all: python -m pretrain.archs; "
        f"a timm model: {TIMM_PREFIX}NAME"
    )


def _of_timm(timm_name: str) -> ArchSpec:
    if not timm_name or any(character in timm_name for character in "/\\:"):
        raise UserError(
            f"{TIMM_PREFIX}{timm_name} names no timm model; an arch is {TIMM_PREFIX}NAME as in "
            f"{TIMM_PREFIX}convnext_tiny, and weights of your own go to --init"
        )
    return ArchSpec(
        timm_name=timm_name,
        params=None,
        weight_tag=None,
        min_size=1,
        dilates=None,
        head_input="timm",
    )
