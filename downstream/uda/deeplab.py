"""DeepLabV2: a dilated encoder and parallel dilated convolutions, of which the outputs add up.

Chen et al. 2018 (arXiv:1606.00915), section 3, as Tsai et al. 2018 (arXiv:1802.10349), section 4,
use it: stride 8, a second head on the stage before the last, no normalisation in the heads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn
from torch.nn import functional

from downstream.uda.encoders import DILATIONS, OUTPUT_STRIDE, qualifies
from shards.cli import UserError


class DeepLabV2(nn.Module):
    """Takes images `(N, 3, H, W)` of any size; gives float32 logits `(N, classes, H, W)`.

    Of two classes, with `one_logit`, it has one logit z and gives (0, z), so that the softmax is
    z's sigmoid and the cross entropy z's binary one. `aux` adds the head on the stage before the
    last. `encoder_options` go to smp beside the name. Raises `UserError` for an encoder that does
    not dilate.
    """

    def __init__(
        self,
        arch: str,
        classes: int,
        encoder_options: Mapping[str, Any],
        *,
        dilations: Sequence[int] = DILATIONS,
        aux: bool = False,
        one_logit: bool = True,
    ) -> None:
        super().__init__()
        if fault := qualifies(arch):
            raise UserError(fault)
        # torchvision's ResNet, not the Caffe one of the papers: the stride that dilation takes the
        # place of is in the 3 x 3 convolution, so that all published weights fit.
        self.encoder: Any = get_encoder(
            arch, weights=None, output_stride=OUTPUT_STRIDE, **encoder_options
        )
        self._one_logit = one_logit and classes == 2
        channels = 1 if self._one_logit else classes
        *_, before, last = self.encoder.out_channels
        self.head = _Aspp(last, channels, dilations)
        self.aux_head = _Aspp(before, channels, dilations) if aux else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The main head's logits."""
        padded = _pad(images)
        return self._logits(self.head(self.encoder(padded)[-1]), padded, images)

    def both(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The main head's logits, and those of the auxiliary head where there is one."""
        padded = _pad(images)
        *_, before, last = self.encoder(padded)
        main = self._logits(self.head(last), padded, images)
        if self.aux_head is None:
            return main, None
        return main, self._logits(self.aux_head(before), padded, images)

    def _logits(
        self, cells: torch.Tensor, padded: torch.Tensor, images: torch.Tensor
    ) -> torch.Tensor:
        """Logits at the images' size, of the heads' `(N, c, h, w)`."""
        height, width = images.shape[2:]
        fine = _upsample(cells, padded.shape[2:])[:, :, :height, :width]
        return torch.cat([torch.zeros_like(fine), fine], 1) if self._one_logit else fine


class _Aspp(nn.Module):
    """Atrous spatial pyramid pooling: 3 x 3 convolutions of several dilations, summed."""

    def __init__(self, channels: int, classes: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, classes, 3, padding=dilation, dilation=dilation)
            for dilation in dilations
        )
        for branch in self.branches:
            assert isinstance(branch, nn.Conv2d) and branch.bias is not None
            nn.init.normal_(branch.weight, 0.0, 0.01)
            nn.init.zeros_(branch.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.stack([branch(features) for branch in self.branches]).sum(0)


def _pad(images: torch.Tensor) -> torch.Tensor:
    """Images with their last rows and columns repeated up to sides of 8 n + 1.

    Then the n + 1 cells of a torchvision-style encoder lie on pixels 0, 8, …, 8 n.
    """
    height, width = images.shape[2:]
    padding = (0, (1 - width) % OUTPUT_STRIDE, 0, (1 - height) % OUTPUT_STRIDE)
    return functional.pad(images, padding, mode="replicate")


def _upsample(cells: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Interpolate cells to pixels, 8 to a cell whatever the size, so that tiles and wholes agree.

    An encoder that gives n cells where torchvision's gives n + 1 has them about 4 pixels from the
    border; what is outside of them repeats them. In float32: between cells bf16 would give stairs.
    """
    inner = [(cell - 1) * OUTPUT_STRIDE + 1 for cell in cells.shape[2:]]
    fine = functional.interpolate(cells.float(), inner, mode="bilinear", align_corners=True)
    top, left = ((whole - part) // 2 for whole, part in zip(size, inner, strict=True))
    bottom, right = size[0] - inner[0] - top, size[1] - inner[1] - left
    return functional.pad(fine, (left, right, top, bottom), mode="replicate")
