"""Features of a frozen encoder at single pixels: its maps of all depths, concatenated.

The "hypercolumns" of Hariharan et al. 2015 (arXiv 1411.5752): deep maps tell what a pixel belongs
to, shallow ones where the boundaries are.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from torchvision.transforms import v2

from downstream.network.models import feature_maps
from downstream.network.segmenter import STRIDE
from downstream.probing.candidates import Candidate
from micrograph.cli import UserError
from shards.images.decode import Pixels

WINDOW = 512  # largest side in pixels of one forward pass, to bound memory

Positions = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]


@torch.inference_mode()
def hypercolumns(
    encoder: nn.Module, candidate: Candidate, pixels: Pixels, positions: Positions
) -> Features:
    """Features `(n, D)` at `positions` `(n, 2)`, row and column, of an image `(H, W, 3)` uint8.

    Raises `UserError` if the encoder does not accept images of this size.
    """
    device = next(encoder.parameters()).device
    normalise = v2.Normalize(list(candidate.mean), list(candidate.std))
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    image = normalise(image.to(device).float() / 255)
    # Windows of equal size, so that none is a sliver.
    steps = [-(-side // -(-side // WINDOW)) for side in pixels.shape[:2]]
    windows = positions // steps
    found: Features | None = None
    for window in np.unique(windows, axis=0):
        inside = np.flatnonzero((windows == window).all(1))
        top, left = (int(corner) for corner in window * steps)
        part = image[:, top : top + steps[0], left : left + steps[1]]
        padding = [0, 0, -part.shape[2] % STRIDE, -part.shape[1] % STRIDE]
        padded = v2.functional.pad(part, padding, padding_mode="symmetric")[None]
        places = torch.from_numpy(positions[inside] - [top, left]).to(device)
        values = _at(_maps(encoder, candidate, padded), places, padded.shape[2:])
        if found is None:
            found = np.zeros((len(positions), values.shape[1]), np.float32)
        found[inside] = values.cpu().numpy()
    assert found is not None, "no positions"
    return found


def _maps(encoder: nn.Module, candidate: Candidate, padded: torch.Tensor) -> Sequence[torch.Tensor]:
    """All maps `(1, C, h, w)` of an image `(1, 3, H, W)`."""
    try:
        found = encoder(padded)
    except (RuntimeError, AssertionError, ValueError) as error:
        size = f"{padded.shape[3]} x {padded.shape[2]}"
        raise UserError(f"{candidate.name} does not accept {size} pixels: {error}") from error
    return feature_maps(encoder, found)


def _at(maps: Sequence[torch.Tensor], positions: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Interpolate maps at pixels `(n, 2)` of an image of `size`; returns `(n, D)`."""
    height, width = size
    x = (positions[:, 1] + 0.5) * 2 / width - 1  # grid_sample's coordinates: -1 to 1, edge to edge
    y = (positions[:, 0] + 0.5) * 2 / height - 1
    grid = torch.stack([x, y], -1).float()[None, :, None]
    columns = [functional.grid_sample(one.float(), grid, align_corners=False) for one in maps]
    return torch.cat([column[0, :, :, 0].T for column in columns], 1)
