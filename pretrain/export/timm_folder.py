"""Write the trained classifier as a folder that timm loads: config.json, model.safetensors.

    timm.create_model("local-dir:EXPORT/timm", pretrained=True)                   the classifier
    timm.create_model("local-dir:EXPORT/timm", pretrained=True, num_classes=0)    pooled features
    smp.Unet("tu-local-dir:EXPORT/timm", encoder_weights=True, classes=3)         a segmenter

The linear layer is included, with the class names as timm's `label_names`, where timm's model ends
as ours: pooling, then one linear layer. All archs of the table do. A `tu-` model does not where
timm has a norm or a convolution, which we do not train, between its last feature map and the linear
layer (Swin, ConvNeXt, EfficientNet); such a model is written without a classifier.

For a segmenter on an arch of the table `encoder.safetensors` is the better file: with `tu-` smp
uses timm's feature maps, in which DPN lacks its last norm and MobileNetV2 its last convolution.
"""

import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from segmentation_models_pytorch.encoders import TimmViTEncoder
from timm.models import VisionTransformer, save_for_hf
from torch import nn

from pretrain.cards.archs import TIMM_PREFIX, find_arch
from pretrain.network.classifier import Classifier
from pretrain.network.timm_models import encoder_options, feature_type
from pretrain.network.weights import StateDict
from shards.shard_format.schema import SourceInfo

TIMM_FOLDER = "timm"

_RGB = 3
_VGG_MLP_RATIO = 1 / 8  # of timm's 4096 hidden features: the 512 that VGG's last map has
# Largest relative difference between timm's logits and ours; rounding stays far below it.
_SAME_LOGITS = 1e-3


@dataclass(frozen=True, kw_only=True)
class TimmExport:
    """The facts that go into the folder's config."""

    arch: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int  # pixels
    sources: tuple[SourceInfo, ...]


def write_timm_folder(folder: Path, model: Classifier, export: TimmExport) -> float:
    """Write the folder, load it with timm and return the relative difference from `model`.

    That is the largest difference of the deepest feature maps over their largest value, for one
    image of noise of `image_size`; infinite where timm's map has another size.
    """
    model.eval()
    timm_model, untrained = _timm_model(model, export)
    save_for_hf(
        timm_model,
        str(folder),
        model_config={
            "pretrained_cfg": _pretrained_cfg(export),
            "label_names": list(export.classes) if timm_model.num_classes else None,
        },
        data_config={
            "input_size": (_RGB, export.image_size, export.image_size),
            "mean": _three(export.mean),
            "std": _three(export.std),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
        },
        safe_serialization=True,
    )
    has_classifier = bool(timm_model.num_classes)
    del timm_model  # up to half a gigabyte, and the next line loads another
    difference = _difference(folder, model, export)
    text = _readme(export, difference, untrained, has_classifier=has_classifier)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return difference


def _timm_model(model: Classifier, export: TimmExport) -> tuple[Any, list[str]]:
    """timm's model with our weights, and the names of its tensors that were not trained."""
    name, args = find_arch(export.arch).timm_name, _model_args(export.arch)
    timm_model: Any = timm.create_model(name, num_classes=len(export.classes), **args)
    own = timm_model.state_dict()
    state = _encoder_state(export.arch, model, own)
    with_head = state | _head_state(model, timm_model)
    if own.keys() == with_head.keys():
        timm_model.load_state_dict(with_head)
        if not export.arch.startswith(TIMM_PREFIX) or _same_logits(timm_model, model, export):
            return timm_model.eval(), []
    timm_model = timm.create_model(name, num_classes=0, **args)
    own = timm_model.state_dict()
    timm_model.load_state_dict(own | state)
    untrained = own.keys() - state.keys()
    return timm_model.eval(), sorted(n for n in untrained if not n.endswith("num_batches_tracked"))


def _model_args(arch: str) -> dict[str, Any]:
    """Arguments with which timm's model is the one that was trained."""
    if arch.startswith("vgg"):
        return {"mlp_ratio": _VGG_MLP_RATIO}
    args = {key: value for key, value in encoder_options(arch).items() if key != "num_classes"}
    if arch.startswith(TIMM_PREFIX) and feature_type(arch) == "vit":
        with torch.device("meta"):
            plain = timm.create_model(find_arch(arch).timm_name)
        if type(plain) is VisionTransformer and plain.global_pool != "avg":
            # We average the patches' tokens after the final norm; timm does so with these.
            args |= {"global_pool": "avg", "fc_norm": False}
    return args


def _encoder_state(arch: str, model: Classifier, own: StateDict) -> StateDict:
    """The encoder's tensors under timm's names. `own` are those of timm's model, in its order."""
    encoder: StateDict = model.encoder.state_dict()
    if arch.startswith(("efficientnet", "mobilenet")):
        # The same layers in the same order under other names, then timm's classifier.
        return dict(zip(own, encoder.values(), strict=False))
    if arch.startswith("vgg"):
        return encoder | _vgg_pre_logits(own)
    if not arch.startswith(TIMM_PREFIX):
        return encoder
    # timm's feature wrapper names `stages.0.blocks` `stages_0.blocks`.
    names = {name.replace(".", "_"): name for name in own}
    flat = {re.sub(r"^(model\.)+", "", name).replace(".", "_"): t for name, t in encoder.items()}
    return {names[name]: tensor for name, tensor in flat.items() if name in names}


def _vgg_pre_logits(own: StateDict) -> StateDict:
    """VGG's two hidden layers, which smp lacks, as layers that only average.

    The first averages 7 x 7 positions: all of them at 224 pixels, where timm's classifier equals
    ours exactly. The second passes the 512 averages on, among zeros. The ReLU after each changes
    nothing: its input is not negative.
    """
    state = {name: torch.zeros_like(own[name]) for name in own if name.startswith("pre_logits.")}
    for name in ("pre_logits.fc1.weight", "pre_logits.fc2.weight"):
        outputs, inputs, height, width = state[name].shape
        diagonal = torch.arange(min(outputs, inputs))
        state[name][diagonal, diagonal] = 1 / (height * width)
    return state


def _head_state(model: Classifier, timm_model: Any) -> StateDict:
    """Our linear layer under timm's names; empty where timm has no such layer."""
    layer = timm_model.get_classifier()
    if not isinstance(layer, nn.Linear | nn.Conv2d) or layer.bias is None:
        return {}
    name = next(name for name, module in timm_model.named_modules() if module is layer)
    weight = torch.zeros_like(layer.weight)  # (classes, channels), of DPN (classes, channels, 1, 1)
    ours = model.linear.weight.detach()
    if weight.flatten(1).shape[1] < ours.shape[1]:
        return {}
    weight.detach().flatten(1)[:, : ours.shape[1]] = ours  # VGG has zeros to the right
    return {f"{name}.weight": weight.detach(), f"{name}.bias": model.linear.bias.detach()}


@torch.no_grad()
def _same_logits(timm_model: Any, model: Classifier, export: TimmExport) -> bool:
    """Whether timm's whole model, with its parts without weights, computes what ours does."""
    images = _noise(export)
    return _relative_difference(timm_model.eval()(images), model(images)) < _SAME_LOGITS


@torch.no_grad()
def _difference(folder: Path, model: Classifier, export: TimmExport) -> float:
    name, images, encoder = f"local-dir:{folder}", _noise(export), model.encoder
    if isinstance(encoder, TimmViTEncoder):
        ours = encoder(images)[0][-1]
        options = encoder_options(export.arch)
        loaded = TimmViTEncoder(name, pretrained=True, **options).eval()
        return _relative_difference(loaded(images)[0][-1], ours)
    ours = model.features(images)
    if export.arch.startswith(TIMM_PREFIX):
        maps: Any = encoder.model
        levels = maps.feature_info.out_indices
        with _quiet_timm():  # it lists the unused tensors after the feature maps
            loaded = timm.create_model(
                name, pretrained=True, features_only=True, out_indices=levels
            ).eval()
        deepest = loaded(images)[-1]
        channels_last = getattr(loaded, "output_fmt", None) == "NHWC"
        return _relative_difference(deepest.permute(0, 3, 1, 2) if channels_last else deepest, ours)
    loaded = timm.create_model(name, pretrained=True, num_classes=0).eval()
    try:
        return _relative_difference(loaded.forward_features(images), ours)
    except RuntimeError:
        if find_arch(export.arch).timm_features == "other padding":
            return math.inf  # timm's inception nets need 75 pixels, smp's do not
        raise


@contextmanager
def _quiet_timm() -> Iterator[None]:
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _noise(export: TimmExport) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, _RGB, export.image_size, export.image_size, generator=generator)


def _relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over largest value; infinite for maps of different size."""
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp_min(torch.finfo(b.dtype).tiny))


def _pretrained_cfg(export: TimmExport) -> dict[str, Any]:
    """Replaces what timm's config would say of its own weights."""
    licences = [source.licence or "unknown" for source in export.sources]
    return {
        "tag": "micrographs",
        "license": ", ".join(dict.fromkeys(licences)),
        "description": "pre-trained on micrographs; see card.json beside this folder",
        "origin_url": None,
        "paper_name": None,
        "paper_ids": None,
        "notes": None,
    }


def _three(values: tuple[float, ...]) -> tuple[float, ...]:
    """One value per input channel: a grey corpus' single value is repeated."""
    return values * _RGB if len(values) == 1 else values


def _readme(
    export: TimmExport, difference: float, untrained: list[str], *, has_classifier: bool
) -> str:
    spec = find_arch(export.arch)
    wanted = "features_only=True" if untrained else "num_classes=0"
    lines = [
        f"# {export.arch}, pre-trained on micrographs, for timm",
        "",
        "```python",
        f'model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True, {wanted})',
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        "```",
        "",
        f"timm's name of it is `{spec.timm_name}`; images of {export.image_size} pixels, three "
        "equal channels where the corpus is grey.",
    ]
    if has_classifier:
        lines.append(f"Without `num_classes=0` it predicts the {len(export.classes)} classes.")
    if spec.timm_features != "equal":
        apart = f"differ by {difference:.2g} of the largest value"
        if math.isinf(difference):
            apart = "have another size, or timm takes no images so small"
        lines += [
            "",
            f"timm pads differently from smp, in which it was trained ({spec.timm_features}): at "
            f"{export.image_size} pixels the deepest features {apart}. `encoder.safetensors`, in "
            "smp, gives the features that were trained.",
        ]
    if untrained:
        lines += [
            "",
            "Use its feature maps, as above. What timm has after them was not trained and holds "
            "initial values: " + ", ".join(f"`{name}`" for name in untrained) + ".",
        ]
    for source in export.sources:
        if source.restriction:
            lines += ["", f"Restricted ({source.name}): {source.restriction}"]
    return "\n".join(lines) + "\n"
