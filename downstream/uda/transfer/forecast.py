"""The accuracy to expect of a run on images without labels, as its rehearsals teach it.

Signs are regressed on mIoU over the rehearsals (`rehearsal`), linearly and with a ridge, as Deng
and Zheng 2021 (arXiv:2007.02915, section 4) regress accuracy on distance. What is left of each
rehearsal when the others predict it says how wrong a forecast may be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from downstream.seg.metrics import confusion, score
from downstream.uda.prepare import PreparedImage
from downstream.uda.transfer.signs import Look, Signs, SourceView, look_at, mean_signs

FEWEST = 8  # rehearsals; a line of five coefficients needs more than that
# Not entropy: it rises with a shift, and falls again where a network is surely wrong.
PREDICTORS = ("features", "batchnorm", "turns", "moved")
_ALPHAS = np.logspace(-1, 2, 7)
_TINY = 1e-4  # added before a logarithm; signs are mostly far above it

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scored:
    """A run on labelled images: what shows without the labels, and what is true."""

    signs: Signs
    miou: float
    adapted_miou: float  # with the images' own batch-norm statistics
    fraction_errors: Values  # (classes,): predicted less true


class Tally:
    """Adds up one run's looks at labelled images."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._signs: list[Signs] = []
        self._plain = torch.zeros(classes, classes, dtype=torch.int64)
        self._adapted = self._plain.clone()

    def add(self, look: Look, image: PreparedImage) -> None:
        assert image.mask is not None  # the caller has labels
        truth = torch.from_numpy(image.mask.astype(np.int64))
        self._signs.append(look.signs)
        self._plain += self._confusion(look.probabilities, truth)
        self._adapted += self._confusion(look.adapted, truth)

    def scored(self) -> Scored:
        errors = score(self._plain).phase_fraction_error
        return Scored(
            mean_signs(self._signs),
            score(self._plain).miou,
            score(self._adapted).miou,
            np.array(errors),
        )

    def _confusion(self, maps: npt.NDArray[np.float32], truth: torch.Tensor) -> torch.Tensor:
        return confusion(torch.from_numpy(maps.argmax(0)), truth, self._classes)


def score_labelled(view: SourceView, images: Sequence[PreparedImage]) -> Scored:
    """Look at labelled images and score what is seen, at the working scale."""
    tally = Tally(len(view.study.classes))
    for image, look in zip(images, look_at(view, images), strict=True):
        tally.add(look, image)
    return tally.scored()


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one run's rehearsals say."""

    source_miou: float  # on the validation images as they are
    error: float  # root mean square of what the forecasts of left-out rehearsals missed
    scored: tuple[Scored, ...]  # the rehearsals, the unchanged images first
    left_out: Values  # (n,): each rehearsal's mIoU as the others forecast it
    farthest: tuple[float, float]  # largest distances of features and statistics in a rehearsal
    _used: npt.NDArray[np.bool_]  # signs that there are
    _plain: Any  # sklearn publishes no types
    _adapted: Any

    def miou(self, signs: Signs) -> float:
        """As the network is."""
        return self._predicted(self._plain, signs)

    def adapted_miou(self, signs: Signs) -> float:
        """With batch norm's statistics of the images that show these signs."""
        return self._predicted(self._adapted, signs)

    def reaches(self, signs: Signs) -> bool:
        """Whether any rehearsal was as far from the source."""
        return not (signs.features > self.farthest[0] or signs.batchnorm > self.farthest[1])

    def _predicted(self, line: Any, signs: Signs) -> float:
        return float(np.clip(line.predict(_row(signs)[self._used][None])[0], 0, 1))


def fit_forecast(scored: Sequence[Scored]) -> Forecast:
    """Learn from rehearsals, the first being the unchanged images. Raises `ValueError` for few."""
    if len(scored) < FEWEST:
        raise ValueError(f"a forecast needs at least {FEWEST} rehearsals, not {len(scored)}")
    rows = np.array([_row(own.signs) for own in scored])
    used = np.isfinite(rows).all(0)
    mious = np.array([own.miou for own in scored])
    left_out = np.clip(cross_val_predict(_line(), rows[:, used], mious, cv=LeaveOneOut()), 0, 1)
    return Forecast(
        source_miou=float(mious[0]),
        error=float(np.sqrt(np.mean((left_out - mious) ** 2))),
        scored=tuple(scored),
        left_out=left_out,
        farthest=(
            max(own.signs.features for own in scored),
            max(own.signs.batchnorm for own in scored),
        ),
        _used=used,
        _plain=_line().fit(rows[:, used], mious),
        _adapted=_line().fit(rows[:, used], [own.adapted_miou for own in scored]),
    )


def _line() -> Any:
    return make_pipeline(StandardScaler(), RidgeCV(_ALPHAS))


def _row(signs: Signs) -> Values:
    """Distances and shares by their logarithms: they span orders of magnitude."""
    return np.log(np.array([getattr(signs, name) for name in PREDICTORS]) + _TINY)
