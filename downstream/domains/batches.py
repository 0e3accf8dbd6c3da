"""Tiles of a domain in memory, and augmented batches as a pure function of seed, stream and step.

There is no generator state: a resumed run gets the same batches, and random numbers for the target
do not affect those for the source.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn
from torchvision import tv_tensors

from downstream.domains.prepare import PreparedImage
from downstream.domains.study import DomainStudy
from micrograph.cli import UserError

# Each use of random numbers in a step has its own stream.
Stream = Literal[
    "source",
    "target",
    "source_network",
    "target_network",
    "masking",
    "masked_network",
    "discriminators",
]
_STREAMS = {name: index for index, name in enumerate(get_args(Stream))}


@dataclass(frozen=True, slots=True)
class TilePool:
    """All training tiles of a domain."""

    images: torch.Tensor  # (N, 3, side, side) uint8
    # (N, side, side) uint8: class indices, or 0 without labels; IGNORE outside of tile cores.
    masks: torch.Tensor

    def to(self, device: torch.device) -> "TilePool":
        """Copy to `device`."""
        return TilePool(self.images.to(device), self.masks.to(device))


def cut_tiles(
    study: DomainStudy,
    images: Sequence[PreparedImage],
    *,
    labelled: bool,
    compat_padding: bool = False,
) -> TilePool:
    """Cut prepared images into tiles; without `labelled`, masks are not used.

    Raises `UserError` if `labelled` is set and an image has no mask.
    """
    pixels, masks = [], []
    for image in images:
        plan = study.plan(*image.pixels.shape[:2])
        mask = np.zeros(image.pixels.shape[:2], np.uint8)
        if labelled:
            if image.mask is None:
                raise UserError(
                    f"{image.name} has no mask, but its domain is used for supervised training"
                )
            mask = image.mask
        pixels.append(plan.extract(image.pixels))
        masks.append(plan.extract_labels(mask, compat_padding=compat_padding))
    stacked = torch.from_numpy(np.concatenate(pixels)).permute(0, 3, 1, 2).contiguous()
    return TilePool(stacked, torch.from_numpy(np.concatenate(masks)))


def draw_batch(
    pool: TilePool, augment: nn.Module, batch_size: int, seed: int, stream: Stream, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images `(B, 3, side, side)` uint8 and masks `(B, side, side)` int64 of a step, from 0.

    Each tile occurs once per pass over the pool. Reseeds torch's global generator.
    """
    seed_stream(seed, stream, step)
    drawn = [
        augment(tv_tensors.Image(pool.images[i]), tv_tensors.Mask(pool.masks[i][None]))
        for i in _tile_indices(len(pool.images), batch_size, seed, stream, step)
    ]
    images = torch.stack([image.as_subclass(torch.Tensor) for image, _ in drawn])
    return images, torch.stack([mask.as_subclass(torch.Tensor)[0] for _, mask in drawn]).long()


def seed_stream(seed: int, stream: Stream, step: int) -> None:
    """Seed torch's global generator for `stream` at `step`."""
    state = np.random.SeedSequence([seed, _STREAMS[stream], step]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))  # torch requires less than 2**63


def _tile_indices(count: int, batch_size: int, seed: int, stream: Stream, step: int) -> list[int]:
    positions = range(step * batch_size, (step + 1) * batch_size)
    passes = {position // count for position in positions}
    orders = {
        number: np.random.default_rng([seed, _STREAMS[stream], number]).permutation(count)
        for number in passes
    }
    return [int(orders[position // count][position % count]) for position in positions]
