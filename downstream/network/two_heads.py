"""Networks for adaptation: `forward_heads` also returns the logits of an auxiliary head."""

from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.nn import functional

from downstream.network.deeplab import DeepLabV2
from downstream.network.segmenter import STRIDE


def to_uda_network(model: nn.Module) -> "UdaNetwork":
    """Add `forward_heads` to an smp Unet from `create_model` or `bare_model`.

    The state dict does not change. Raises `TypeError` for decoders other than Unet and DeepLabV2.
    """
    if isinstance(model, DeepLabV2):
        return model
    if isinstance(model, smp.Unet):
        return UdaUnet(model)
    raise TypeError(f"cannot adapt a {type(model).__name__}, only DeepLabV2 and Unet")


class UdaUnet(nn.Module):
    """smp's Unet (paper B's baseline) for images `(N, 3, H, W)` of any size; no auxiliary head.

    Its state dict is that of the Unet.
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

    def forward_heads(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The logits, and None for the auxiliary head."""
        return self(images), None


UdaNetwork = DeepLabV2 | UdaUnet
