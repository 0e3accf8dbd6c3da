"""Several segmenters, each seeing a tile from several sides, as one: the mean of probabilities.

Probabilities are averaged, not logits: a mean of logits is more certain than its members are.
Entropies are in nats over ln(classes), so that 1 is "no idea". Disagreement is the mutual
information of prediction and member (Houlsby et al. 2011, arXiv 1112.5745, eq. 2; Lakshminarayanan
et al. 2017 for ensembles): the entropy of the mean less the mean of the entropies.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from downstream.apply.blend import Maps
from downstream.seg.segmenter import Segmenter, load_segmenter
from pretrain.segmenter_card import SegmenterCard
from shards.cli import UserError

View = tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Member:
    """A segmenter and the temperature that makes its probabilities true (1: as they come)."""

    segmenter: Segmenter
    temperature: float = 1.0


class Ensemble:
    """Members of one set of classes; sums up how large a share of the pixels each gives a class.

    `__call__` returns `(N, classes + 1, T, T)`: mean probabilities, and the mean of the members'
    entropies.
    """

    def __init__(self, members: Sequence[Member], classes: int, views: Sequence[View]) -> None:
        self._members = members
        self._views = views
        self.classes = classes
        self.start_image()

    @property
    def channels(self) -> int:
        return self.classes + 1

    def start_image(self) -> None:
        """Forget the shares of the image before."""
        self._shares = np.zeros((len(self._members), self.classes))

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Mean probability `(members, classes)` over the image so far: soft phase fractions."""
        shares: npt.NDArray[np.float64] = self._shares / max(
            self._shares.sum() / len(self._members), 1e-12
        )
        return shares

    @torch.inference_mode()
    def __call__(self, tiles: torch.Tensor, windows: Maps) -> Maps:
        total = torch.zeros(0)
        weights = torch.from_numpy(windows)
        for number, member in enumerate(self._members):
            mean = torch.zeros(0)
            for there, back in self._views:
                logits = member.segmenter.logits(there(tiles)).float()
                seen = back(torch.softmax(logits / member.temperature, 1))
                mean = seen if not mean.numel() else mean + seen
            mean = mean / len(self._views)
            shares = torch.einsum("nchw,nhw->c", mean, weights.to(mean.device))
            self._shares[number] += shares.double().cpu().numpy()
            maps = torch.cat([mean, entropy(mean)[:, None]], 1)
            total = maps if not total.numel() else total + maps
        return np.asarray((total / len(self._members)).cpu().numpy())


def load_members(runs: Sequence[Path], temperatures: Sequence[float]) -> list[Member]:
    """The segmenters of finished runs. Raises `UserError` where their classes differ."""
    members = [
        Member(load_segmenter(run), temperature)
        for run, temperature in zip(runs, temperatures, strict=True)
    ]
    wanted = members[0].segmenter.card
    for run, member in zip(runs, members, strict=True):
        card = member.segmenter.card
        assert card is not None and wanted is not None  # a loaded segmenter has one
        if card.classes != wanted.classes:
            raise UserError(
                f"{run} has the classes {' '.join(card.classes)}, but {runs[0]} "
                f"{' '.join(wanted.classes)}; an ensemble needs the same"
            )
        if card.preparation != wanted.preparation:
            raise UserError(
                f"{run} was trained on images prepared so: {_prepared(card)}; {runs[0]} "
                f"so: {_prepared(wanted)}; an ensemble needs the same"
            )
    return members


def _prepared(card: SegmenterCard) -> str:
    return card.spelled_preparation or "not at all"


def views(orientation: str) -> list[View]:
    """The flips and turns that a run was trained with: all eight, or the horizontal flip."""
    if orientation == "hflip":
        return [(_same, _same), (_mirror, _mirror)]
    turned = [_turn(quarters) for quarters in range(4)]
    return turned + [_mirrored(view) for view in turned]


def single_view() -> list[View]:
    """The image as it is."""
    return [(_same, _same)]


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy `(N, H, W)` of `(N, C, H, W)`, 1 where all classes are as likely."""
    classes = probabilities.shape[1]
    nats: torch.Tensor = torch.special.entr(probabilities).sum(1)
    return nats / math.log(classes)


def _same(images: torch.Tensor) -> torch.Tensor:
    return images


def _mirror(images: torch.Tensor) -> torch.Tensor:
    return images.flip(3)


def _turn(quarters: int) -> View:
    return (
        lambda images: torch.rot90(images, quarters, (2, 3)),
        lambda maps: torch.rot90(maps, -quarters, (2, 3)),
    )


def _mirrored(view: View) -> View:
    there, back = view
    return lambda images: there(images.flip(3)), lambda maps: back(maps).flip(3)
