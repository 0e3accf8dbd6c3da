"""Mixup and cutmix, with parameters drawn from (seed, epoch, sample).

Zhang et al. 2018, "mixup", eq. 2; Yun et al. 2019, "CutMix", eqs. 1 and 2. A sample's partner is
the next one in its micro-batch (the order is random already); the mixing weight is drawn for the
sample. So a resumed run mixes the same way, and so does any number of processes that splits a step
into the same micro-batches (sample_order.py).
"""

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import betaincinv
from torch.nn import functional

from pretrain.config import TrainConfig
from pretrain.loading.loader import Batch
from pretrain.loading.philox import Stream, uniforms
from pretrain.network.to_device import to_device

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def mix(
    config: TrainConfig, epoch: int, batch: Batch, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixed images, shaped as the batch's, and targets `(N, classes)` float32 that sum to 1."""
    u = uniforms(config.seed, Stream.MIX, epoch, batch.ids, 5).T
    mixes = u[0] < config.mix_prob
    cuts = u[1] < _share_of_cutmix(config)
    alpha = np.where(cuts, config.cutmix, config.mixup)
    kept = np.where(mixes, betaincinv(alpha, alpha, u[2]), 1.0)  # inverse of Beta(alpha, alpha)
    height, width = batch.images.shape[2:]
    boxes = _boxes(kept, u[3], u[4], height, width)
    area = (boxes[1] - boxes[0]) * (boxes[3] - boxes[2])
    kept = np.where(cuts, 1 - area / (height * width), kept)  # the box is rounded and clipped

    device = batch.images.device
    shares = to_device(kept.astype(np.float32), device)
    cuts_here = to_device(cuts, device).view(-1, 1, 1, 1)
    outside = ~_inside(to_device(boxes, device), height, width)
    weights = torch.where(cuts_here, outside.float(), shares.view(-1, 1, 1, 1))
    images = batch.images.roll(-1, 0).lerp(batch.images, weights)
    targets = functional.one_hot(batch.labels, classes).float()
    return (
        images.contiguous(memory_format=torch.channels_last),
        targets.roll(-1, 0).lerp(targets, shares[:, None]),
    )


def _share_of_cutmix(config: TrainConfig) -> float:
    if config.mixup and config.cutmix:
        return 0.5
    return 1.0 if config.cutmix else 0.0


def _boxes(kept: Floats, at_y: Floats, at_x: Floats, height: int, width: int) -> Ints:
    """Top, bottom, left, right of each partner's box, `(4, N)` in pixels; clipped to the image."""
    half = np.sqrt(1 - kept) / 2
    edges = [
        (at_y - half) * height,
        (at_y + half) * height,
        (at_x - half) * width,
        (at_x + half) * width,
    ]
    return np.rint(np.clip(edges, 0, [[height], [height], [width], [width]])).astype(np.int64)


def _inside(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Which pixels lie in each box: `(N, 1, H, W)` bool, on the boxes' device."""
    top, bottom, left, right = boxes[..., None]
    y, x = torch.arange(height, device=boxes.device), torch.arange(width, device=boxes.device)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    inside: torch.Tensor = rows[:, None, :, None] & columns[:, None, None, :]
    return inside
