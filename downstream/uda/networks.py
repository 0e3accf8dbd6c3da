"""The networks that adaptation trains; `both` gives an auxiliary head's logits too."""

from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.nn import functional

from downstream.uda.deeplab import DeepLabV2

STRIDE = 32  # pixels; what the sides of smp's Unet's input are multiples of


def adaptable(model: nn.Module) -> "UdaNetwork":
    """The network of `create_model` or `bare_model`, an smp Unet being given `both`.

    The state dict stays the one that `bare_model` loads. Raises `TypeError` for another decoder.
    """
    if isinstance(model, DeepLabV2):
        return model
    if isinstance(model, smp.Unet):
        return UdaUnet(model)
    raise TypeError(f"a {type(model).__name__} cannot be adapted: DeepLabV2 and Unet can")


class UdaUnet(nn.Module):
    """smp's Unet (paper B's baseline of generalisation) for images `(N, 3, H, W)` of any size.

    Its state dict is the Unet's own; it has no auxiliary head.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        parts: Any = unet  # smp publishes no types
        self.encoder: Any = parts.encoder
        self.decoder: Any = parts.decoder
        self.segmentation_head: Any = parts.segmentation_head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Float32 logits `(N, classes, H, W)`."""
        height, width = images.shape[2:]
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        features = self.encoder(functional.pad(images, padding, mode="replicate"))
        logits: torch.Tensor = self.segmentation_head(self.decoder(features))
        return logits[:, :, :height, :width].float()

    def both(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The logits, and None for an auxiliary head's."""
        return self(images), None


UdaNetwork = DeepLabV2 | UdaUnet
