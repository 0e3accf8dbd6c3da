"""DeepLabV2: a dilated encoder and parallel dilated convolutions whose outputs are added.

Chen et al. 2018 (arXiv:1606.00915), section 3, as Tsai et al. 2018 (arXiv:1802.10349), section 4,
use it: stride 8, an auxiliary head on the stage before the last, no normalisation in the heads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn
from torch.nn import functional

from downstream.network.dilation import DILATIONS, OUTPUT_STRIDE, dilation_error
from micrograph.cli import UserError


class DeepLabV2(nn.Module):
    """Maps images `(N, 3, H, W)` of any size to float32 logits `(N, classes, H, W)`.

    With `one_logit` and two classes it computes one logit z and returns (0, z): the softmax is then
    the sigmoid of z, and the cross entropy the binary one. `aux` adds a head on the stage before
    the last. `encoder_options` are passed to smp. Raises `UserError` for an encoder that cannot be
    dilated.
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
        if fault := dilation_error(arch):
            raise UserError(fault)
        # torchvision's ResNet, not the Caffe one of the papers: the stride that dilation
        # replaces is in the 3 x 3 convolution, so that all published weights fit.
        self.encoder: Any = get_encoder(
            arch, weights=None, output_stride=OUTPUT_STRIDE, **encoder_options
        )
        self._one_logit = one_logit and classes == 2
        channels = 1 if self._one_logit else classes
        *_, before, last = self.encoder.out_channels
        self.head = _Aspp(last, channels, dilations)
        self.aux_head = _Aspp(before, channels, dilations) if aux else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The logits of the main head."""
        padded = _pad(images)
        return self._logits(self.head(self.encoder(padded)[-1]), padded, images)

    def forward_heads(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The logits of the main head, and those of the auxiliary head, if any."""
        padded = _pad(images)
        *_, before, last = self.encoder(padded)
        main = self._logits(self.head(last), padded, images)
        if self.aux_head is None:
            return main, None
        return main, self._logits(self.aux_head(before), padded, images)

    def _logits(
        self, cells: torch.Tensor, padded: torch.Tensor, images: torch.Tensor
    ) -> torch.Tensor:
        """Upsample the output `(N, c, h, w)` of a head to logits of the size of the images."""
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
    """Pad images to sides of 8 n + 1 by repeating the last row and column.

    Then the n + 1 cells of a torchvision-style encoder are at pixels 0, 8, …, 8 n.
    """
    height, width = images.shape[2:]
    padding = (0, (1 - width) % OUTPUT_STRIDE, 0, (1 - height) % OUTPUT_STRIDE)
    return functional.pad(images, padding, mode="replicate")


def _upsample(cells: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Interpolate cells to pixels, always by a factor of 8, so that tiles and whole images agree.

    An encoder that gives n cells, where torchvision's gives n + 1, has them about 4 pixels from the
    border; pixels outside repeat the border cells. In float32, because bf16 would give steps.
    """
    spanned = [(cell - 1) * OUTPUT_STRIDE + 1 for cell in cells.shape[2:]]
    fine = functional.interpolate(cells.float(), spanned, mode="bilinear", align_corners=True)
    top, left = ((whole - part) // 2 for whole, part in zip(size, spanned, strict=True))
    bottom, right = size[0] - spanned[0] - top, size[1] - spanned[1] - left
    return functional.pad(fine, (left, right, top, bottom), mode="replicate")
