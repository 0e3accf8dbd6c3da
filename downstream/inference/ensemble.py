"""Average the probabilities of several segmenters and of flipped and rotated tiles.

Probabilities are averaged, not logits: a mean of logits is more certain than its members are.
Entropies are divided by ln(classes), so 1 is maximal uncertainty. Disagreement is the mutual
information of prediction and member (Houlsby et al. 2011, arXiv 1112.5745, eq. 2; Lakshminarayanan
et al. 2017 for ensembles): the entropy of the mean minus the mean of the entropies.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from downstream.images.blend import Maps
from downstream.network.segmenter import Segmenter, load_segmenter
from micrograph.cli import UserError


@dataclass(frozen=True, slots=True)
class View:
    """A horizontal flip, then a rotation, of images or maps `(N, C, H, W)`."""

    hflip: bool = False
    quarters: int = 0  # of a turn

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        flipped = images.flip(3) if self.hflip else images
        return torch.rot90(flipped, self.quarters, (2, 3)) if self.quarters else flipped

    def undo(self, maps: torch.Tensor) -> torch.Tensor:
        upright = torch.rot90(maps, -self.quarters, (2, 3)) if self.quarters else maps
        return upright.flip(3) if self.hflip else upright


@dataclass(frozen=True, slots=True)
class Member:
    """A segmenter and its calibration temperature (1: not calibrated)."""

    segmenter: Segmenter
    temperature: float = 1.0


class Ensemble:
    """Members with the same classes; also sums up each member's phase fractions over an image.

    `__call__` returns `(N, classes + 1, T, T)`: the mean probabilities, then the mean entropy of
    the members.
    """

    def __init__(
        self, members: Sequence[Member], classes: int, views: Sequence[View] = (View(),)
    ) -> None:
        self._members = members
        self._views = views
        self.classes = classes
        self.reset_fractions()

    @property
    def channels(self) -> int:
        return self.classes + 1

    def reset_fractions(self) -> None:
        """Start a new image."""
        self._sums = np.zeros((len(self._members), self.classes))

    @property
    def fractions(self) -> npt.NDArray[np.float64]:
        """Mean probabilities `(members, classes)` over the image so far: soft phase fractions."""
        pixels = max(self._sums.sum() / len(self._members), 1e-12)
        return np.asarray(self._sums / pixels)

    @torch.inference_mode()
    def __call__(self, tiles: torch.Tensor, windows: Maps) -> Maps:
        weights = torch.from_numpy(windows)
        maps = [self._maps(number, tiles, weights) for number in range(len(self._members))]
        return np.asarray((reduce(torch.add, maps) / len(maps)).cpu().numpy())

    def _maps(self, number: int, tiles: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        member = self._members[number]
        mean = reduce(torch.add, self._probabilities(member, tiles)) / len(self._views)
        sums = torch.einsum("nchw,nhw->c", mean, weights.to(mean.device))
        self._sums[number] += sums.double().cpu().numpy()
        return torch.cat([mean, entropy(mean)[:, None]], 1)

    def _probabilities(self, member: Member, tiles: torch.Tensor) -> Iterator[torch.Tensor]:
        for view in self._views:
            logits = member.segmenter.logits(view.apply(tiles)).float()
            yield view.undo(torch.softmax(logits / member.temperature, 1))


def load_members(runs: Sequence[Path], temperatures: Sequence[float]) -> list[Member]:
    """Load finished runs. Raises `UserError` if their classes or preparations differ."""
    members = [
        Member(load_segmenter(run), temperature)
        for run, temperature in zip(runs, temperatures, strict=True)
    ]
    reference = members[0].segmenter.card
    for run, member in zip(runs, members, strict=True):
        card = member.segmenter.card
        assert card is not None and reference is not None  # a loaded segmenter has one
        if card.classes != reference.classes:
            raise UserError(
                f"{run} has the classes {' '.join(card.classes)}, but {runs[0]} has "
                f"{' '.join(reference.classes)}; an ensemble needs the same"
            )
        if card.preparation != reference.preparation:
            prepared, expected = (c.spelled_preparation or "nothing" for c in (card, reference))
            raise UserError(
                f"the training images of {run} were prepared by: {prepared}; those of {runs[0]} "
                f"by: {expected}; an ensemble needs the same"
            )
    return members


def tta_views(orientation: str) -> list[View]:
    """The views used in training: all eight flips and rotations, or only the horizontal flip."""
    rotations = range(4) if orientation == "any" else range(1)
    return [View(hflip, quarters) for hflip in (False, True) for quarters in rotations]


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy `(N, H, W)` of `(N, C, H, W)`, 1 where all classes are equally likely."""
    classes = probabilities.shape[1]
    nats: torch.Tensor = torch.special.entr(probabilities).sum(1)
    return nats / math.log(classes)
