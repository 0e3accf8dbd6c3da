"""The encoders that can be trained: one row per architecture, in smp's spelling. Imports no torch.

python -m pretrain.archs        prints the table
"""

from dataclasses import dataclass
from typing import Literal

from shards.cli import UserError, program
from shards.settings import nearest

INITS = ("random", "imagenet")

# What stands between the encoder's last feature map and the pooling of the classification head.
# smp's DenseNet and Xception end before the final ReLU of the original networks; its EfficientNet
# holds the original head convolution `_conv_head`/`_bn1` but leaves it out of the features.
HeadInput = Literal["features", "relu", "efficientnet_head"]

# Equality of smp's and timm's deepest feature maps with the same weights.
TimmFeatures = Literal["equal", "equal at native size", "other padding"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchSpec:
    """What is particular to one architecture."""

    timm_name: str
    weight_tag: str = "imagenet"  # smp's name of the ImageNet weights
    min_size: int = 32  # pixels; the smallest side of an input
    dilates: bool = True  # whether smp can trade stride for dilation (DeepLabV3+, PAN)
    head_input: HeadInput = "features"
    timm_features: TimmFeatures = "equal"
    lr_note: str = ""


def _plain(timm_name: str) -> ArchSpec:
    return ArchSpec(timm_name=timm_name)


def _vgg(timm_name: str, *, batch_norm: bool) -> ArchSpec:
    # Paper A's VGG-11 and VGG-13 without batch norm diverged at lr 0.1 and stayed at chance.
    note = "" if batch_norm else "no batch norm: diverges at lr 0.1, try 0.01"
    return ArchSpec(timm_name=timm_name, dilates=False, lr_note=note)


def _efficientnet(number: int) -> ArchSpec:
    return ArchSpec(
        timm_name=f"tf_efficientnet_b{number}",
        head_input="efficientnet_head",
        # smp pads for the native resolution, timm for the actual one; b0 agrees at multiples of 32.
        timm_features="equal" if number == 0 else "equal at native size",
    )


ARCHS: dict[str, ArchSpec] = {
    **{
        f"vgg{depth}{suffix}": _vgg(f"vgg{depth}{suffix}", batch_norm=bool(suffix))
        for depth in (11, 13, 16, 19)
        for suffix in ("", "_bn")
    },
    **{
        name: ArchSpec(timm_name=name, dilates=False, head_input="relu")
        for name in ("densenet121", "densenet161", "densenet169", "densenet201")
    },
    "dpn68": _plain("dpn68"),
    "dpn68b": ArchSpec(timm_name="dpn68b", weight_tag="imagenet+5k"),
    "dpn92": ArchSpec(timm_name="dpn92", weight_tag="imagenet+5k"),
    "dpn98": _plain("dpn98"),
    "dpn107": ArchSpec(timm_name="dpn107", weight_tag="imagenet+5k"),
    "dpn131": _plain("dpn131"),
    **{f"efficientnet-b{number}": _efficientnet(number) for number in range(8)},
    "resnet18": _plain("resnet18"),
    "resnet34": _plain("resnet34"),
    "resnet50": _plain("resnet50"),
    "resnet101": _plain("resnet101"),
    "resnet152": _plain("resnet152"),
    "inceptionv4": ArchSpec(timm_name="inception_v4", dilates=False, timm_features="other padding"),
    "inceptionresnetv2": ArchSpec(
        timm_name="inception_resnet_v2", dilates=False, timm_features="other padding"
    ),
    "xception": ArchSpec(
        timm_name="legacy_xception",
        dilates=False,
        head_input="relu",
        timm_features="other padding",
    ),
    "mobilenet_v2": _plain("mobilenetv2_100"),
    "resnext50_32x4d": _plain("resnext50_32x4d"),
    "resnext101_32x8d": _plain("resnext101_32x8d"),
    "se_resnet50": _plain("legacy_seresnet50"),
    "se_resnet101": _plain("legacy_seresnet101"),
    "se_resnet152": _plain("legacy_seresnet152"),
    "se_resnext50_32x4d": _plain("legacy_seresnext50_32x4d"),
    "se_resnext101_32x4d": _plain("legacy_seresnext101_32x4d"),
    "senet154": _plain("legacy_senet154"),
}


def find_arch(name: str) -> ArchSpec:
    """The row of `name`. Raises `UserError` naming the nearest architecture."""
    try:
        return ARCHS[name]
    except KeyError:
        like = nearest(name, ARCHS)
        hint = f"nearest is {like!r}; " if like else ""
        raise UserError(f"unknown arch {name!r}; {hint}all: python -m pretrain.archs") from None


@program
def main(argv: object = None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for heading in ("arch", "timm name", "ImageNet tag", "dilates", "timm features", "note"):
        table.add_column(heading, no_wrap=heading == "arch")
    for name, spec in ARCHS.items():
        dilates = "yes" if spec.dilates else "no"
        table.add_row(
            name, spec.timm_name, spec.weight_tag, dilates, spec.timm_features, spec.lr_note
        )
    Console().print(table)


if __name__ == "__main__":
    main()
