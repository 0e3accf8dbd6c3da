"""Tiles of a domain in memory, and the augmented batch of any step as a pure function of counters.

Seed, stream and step decide a batch; no generator has a state. So a resumed run sees what it would
have seen, and what is drawn for the target never changes what is drawn for the source.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn
from torchvision import tv_tensors

from downstream.uda.domains import DomainStudy
from downstream.uda.prepare import PreparedImage
from shards.cli import UserError

# Whatever draws numbers in a step has a stream of its own.
Stream = Literal[
    "source",
    "target",
    "source_network",
    "target_network",
    "masking",
    "masked_network",
    "discriminators",
]
_STREAMS: dict[Stream, int] = {
    "source": 0,
    "target": 1,
    "source_network": 2,
    "target_network": 3,
    "masking": 4,
    "masked_network": 5,
    "discriminators": 6,
}


@dataclass(frozen=True, slots=True)
class TilePool:
    """All training tiles of a domain."""

    images: torch.Tensor  # (N, 3, side, side) uint8
    # (N, side, side) uint8: classes, or 0 in a domain without labels; IGNORE what does not count.
    masks: torch.Tensor

    def to(self, device: torch.device) -> "TilePool":
        """The same on `device`."""
        return TilePool(self.images.to(device), self.masks.to(device))


def cut_tiles(
    study: DomainStudy,
    images: Sequence[PreparedImage],
    *,
    labelled: bool,
    compat_padding: bool = False,
) -> TilePool:
    """Cut prepared images into tiles; without `labelled`, their masks are not looked at.

    Raises `UserError` when an image that should be labelled is not.
    """
    pixels, masks = [], []
    for image in images:
        plan = study.plan(*image.pixels.shape[:2])
        mask = np.zeros(image.pixels.shape[:2], np.uint8)
        if labelled:
            if image.mask is None:
                raise UserError(f"{image.name} has no mask, and this domain is to be learnt from")
            mask = image.mask
        pixels.append(plan.extract(image.pixels))
        masks.append(plan.extract_labels(mask, compat_padding=compat_padding))
    stacked = torch.from_numpy(np.concatenate(pixels)).permute(0, 3, 1, 2).contiguous()
    return TilePool(stacked, torch.from_numpy(np.concatenate(masks)))


def draw_batch(
    pool: TilePool, augment: nn.Module, batch_size: int, seed: int, stream: Stream, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images `(B, 3, side, side)` uint8 and masks `(B, side, side)` int64 of a step, from 0.

    Tiles come in passes, each once per pass. Reseeds torch's global generator.
    """
    seed_stream(seed, stream, step)
    drawn = [
        augment(tv_tensors.Image(pool.images[at]), tv_tensors.Mask(pool.masks[at][None]))
        for at in _positions(len(pool.images), batch_size, seed, stream, step)
    ]
    images = torch.stack([image.as_subclass(torch.Tensor) for image, _ in drawn])
    return images, torch.stack([mask.as_subclass(torch.Tensor)[0] for _, mask in drawn]).long()


def seed_stream(seed: int, stream: Stream, step: int) -> None:
    """Put torch's global generator where `stream` has it at `step`."""
    state = np.random.SeedSequence([seed, _STREAMS[stream], step]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))  # torch wants it below 2**63


def _positions(count: int, batch_size: int, seed: int, stream: Stream, step: int) -> list[int]:
    places = range(step * batch_size, (step + 1) * batch_size)
    passes = {place // count for place in places}
    orders = {
        number: np.random.default_rng([seed, _STREAMS[stream], number]).permutation(count)
        for number in passes
    }
    return [int(orders[place // count][place % count]) for place in places]
