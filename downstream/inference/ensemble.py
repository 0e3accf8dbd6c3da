"""Average the probabilities of several segmenters and of flipped and rotated tiles.

Probabilities are averaged, not logits: a mean of logits is more certain than its members are.
Entropies are divided by ln(classes), so 1 is maximal uncertainty. Disagreement is the mutual
information of prediction and member (Houlsby et al. 2011, arXiv 1112.5745, eq. 2; Lakshminarayanan
et al. 2017 for ensembles): the entropy of the mean minus the mean of the entropies.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from downstream.images.blend import Maps
from downstream.network.segmenter import Segmenter, load_segmenter
from micrograph.cli import UserError
from pretrain.cards.segmenter_card import SegmenterCard

# Transforms `(N, C, H, W)` and undoes it.
TtaTransform = tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]


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
        self, members: Sequence[Member], classes: int, tta: Sequence[TtaTransform]
    ) -> None:
        self._members = members
        self._tta = tta
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
        total = torch.zeros(0)
        weights = torch.from_numpy(windows)
        for number, member in enumerate(self._members):
            mean = torch.zeros(0)
            for transform, undo in self._tta:
                logits = member.segmenter.logits(transform(tiles)).float()
                probabilities = undo(torch.softmax(logits / member.temperature, 1))
                mean = probabilities if not mean.numel() else mean + probabilities
            mean = mean / len(self._tta)
            sums = torch.einsum("nchw,nhw->c", mean, weights.to(mean.device))
            self._sums[number] += sums.double().cpu().numpy()
            maps = torch.cat([mean, entropy(mean)[:, None]], 1)
            total = maps if not total.numel() else total + maps
        return np.asarray((total / len(self._members)).cpu().numpy())


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
            raise UserError(
                f"the training images of {run} were prepared by: {_preparation(card)}; those of "
                f"{runs[0]} by: {_preparation(reference)}; an ensemble needs the same"
            )
    return members


def _preparation(card: SegmenterCard) -> str:
    return card.spelled_preparation or "nothing"


def tta_transforms(orientation: str) -> list[TtaTransform]:
    """Those that a run was trained with: all eight flips and rotations, or the horizontal flip."""
    if orientation == "hflip":
        return [(_identity, _identity), (_hflip, _hflip)]
    rotations = [_rotation(quarters) for quarters in range(4)]
    return rotations + [_after_hflip(rotation) for rotation in rotations]


def no_tta() -> list[TtaTransform]:
    """The tile as it is."""
    return [(_identity, _identity)]


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy `(N, H, W)` of `(N, C, H, W)`, 1 where all classes are equally likely."""
    classes = probabilities.shape[1]
    nats: torch.Tensor = torch.special.entr(probabilities).sum(1)
    return nats / math.log(classes)


def _identity(images: torch.Tensor) -> torch.Tensor:
    return images


def _hflip(images: torch.Tensor) -> torch.Tensor:
    return images.flip(3)


def _rotation(quarters: int) -> TtaTransform:
    return (
        lambda images: torch.rot90(images, quarters, (2, 3)),
        lambda maps: torch.rot90(maps, -quarters, (2, 3)),
    )


def _after_hflip(rotation: TtaTransform) -> TtaTransform:
    transform, undo = rotation
    return lambda images: transform(_hflip(images)), lambda maps: _hflip(undo(maps))
