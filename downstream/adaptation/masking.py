"""Masked views: images with most blocks hidden, to be predicted from their context.

Hoyer et al. 2023 (MIC, arXiv:2212.01322), section 3.2.
"""

import torch


def masked_view(
    images: torch.Tensor, block: int, ratio: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Normalised images `(N, C, H, W)` with square blocks set to 0, the mean grey.

    Each block of `block` pixels (clipped at the right and lower border) is independently hidden
    with probability `ratio`. Random numbers are drawn on the CPU [torch's global generator], so
    that a seed gives the same result on any device.
    """
    count, _, height, width = images.shape
    cells = (count, 1, -(-height // block), -(-width // block))
    kept = torch.rand(cells, generator=generator) >= ratio
    fine = kept.repeat_interleave(block, 2).repeat_interleave(block, 3)[..., :height, :width]
    return images * fine.to(images.device)
