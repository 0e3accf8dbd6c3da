"""Grad-CAM: which parts of an image are evidence for a class, by the library pytorch-grad-cam.

Selvaraju et al. 2017 (arXiv 1610.02391); for segmentation the score is the mean logit over the
pixels that were assigned the class (Vinogradova et al. 2020, arXiv 2002.11434). The library's own
targets index a channel, which fails for networks with one output channel: there the score of the
second class is the channel's logit and that of the first its negative.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from pytorch_grad_cam import GradCAM
from segmentation_models_pytorch.encoders import TimmViTEncoder
from torch import nn

from micrograph.cli import UserError
from shards.images.decode import Pixels

_OPACITY = 0.5

Heat = npt.NDArray[np.float32]
Hook = Callable[[nn.Module, object, object], None]


@dataclass(frozen=True, slots=True)
class ClassScore:
    """The mean logit of class `index` over `region` `(H, W)` of an output `(C, H, W)`.

    With two classes, the other class's logit is subtracted.
    """

    index: int
    region: torch.Tensor

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        region = self.region.to(output.device)
        if output.shape[0] == 1:
            logit = output[0] if self.index == 1 else -output[0]
        elif output.shape[0] == 2:  # their difference alone decides; DeepLabV2's first is always 0
            logit = output[self.index] - output[1 - self.index]
        else:
            logit = output[self.index]
        return (logit * region).sum() / region.sum()


def class_heat(network: nn.Module, image: torch.Tensor, layer: nn.Module, index: int) -> Heat:
    """The evidence `(H, W)` for a class at each pixel of a normalised image `(1, 3, H, W)`.

    Scaled to a maximum of 1 in each image, so heat maps of two images are not comparable. If no
    pixel is assigned the class, its score is averaged over all pixels.
    """
    with torch.no_grad():
        output = network(image)[0]
    region = predicted(output) == index
    if not region.any():
        region = torch.ones_like(region)
    with GradCAM(model=network, target_layers=[layer]) as cam:
        heat: Heat = cam(image, targets=[ClassScore(index, region.float())])[0]
    return heat


def predicted(output: torch.Tensor) -> torch.Tensor:
    """Classes `(H, W)` of logits `(C, H, W)`; of one channel, 1 where it is above 0."""
    return (output[0] > 0).long() if output.shape[0] == 1 else output.argmax(0)


def encoder_layer(network: nn.Module, stage: int, image: torch.Tensor) -> nn.Module:
    """The module that outputs the encoder's feature map number `stage` (-1: the deepest).

    Raises `UserError` if no module outputs that map.
    """
    encoder = network.get_submodule("encoder")
    if isinstance(encoder, TimmViTEncoder):
        raise UserError(
            "Grad-CAM needs feature maps, but the blocks of this vision transformer output tokens"
        )
    outputs: list[tuple[nn.Module, torch.Tensor]] = []
    handles = [
        module.register_forward_hook(_keep(outputs))
        for module in encoder.modules()
        if module is not encoder
    ]
    try:
        with torch.no_grad():
            maps: Sequence[torch.Tensor] = encoder(image)
    finally:
        for handle in handles:
            handle.remove()
    if not -len(maps) <= stage < len(maps) or stage in (0, -len(maps)):
        raise UserError(f"stage must be 1 to {len(maps) - 1}, or -1 for the last; not {stage}")
    wanted = maps[stage]
    for module, output in reversed(outputs):  # the outermost module with this output
        if output.shape == wanted.shape and torch.equal(output, wanted):
            return module
    raise UserError(f"no module of this encoder outputs stage {stage}; try another of --stages")


def named_layer(network: nn.Module, name: str) -> nn.Module:
    """The encoder's module of this name, such as `layer3.15`: paper B's "layer 3_16".

    Raises `UserError` with the names of the existing modules.
    """
    module = network.get_submodule("encoder")
    for depth, part in enumerate(name.split(".")):
        children = dict(module.named_children())
        if part not in children:
            where = ".".join(name.split(".")[:depth])
            raise UserError(
                f"the encoder has no module {name!r}: {where or 'it'} holds "
                f"{', '.join(children) or 'nothing'}"
            )
        module = children[part]
    return module


def _keep(outputs: list[tuple[nn.Module, torch.Tensor]]) -> Hook:
    def keep(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            outputs.append((module, output))

    return keep


def heated(pixels: Pixels, heat: Heat) -> Pixels:
    """A micrograph `(H, W, 3)` uint8 under a heat map `(H, W)` of 0 to 1."""
    colours = colormaps["inferno"](heat)[..., :3] * 255
    return np.rint((1 - _OPACITY) * pixels + _OPACITY * colours).astype(np.uint8)
