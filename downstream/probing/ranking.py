"""Rank encoders by cross-validated scores, with paired intervals. Imports no torch.

Scores of folds are not independent, since their training images overlap. The interval of a
difference is therefore that of Nadeau and Bengio 2003 (doi:10.1023/A:1024068626366): Student's t
with the variance of the k differences times (1/k + n_held / n_kept) = 1/k + 1/(k - 1). It is
conservative.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from micrograph.confidence_intervals import CONFIDENCE


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference over the folds and its interval, which is nan for fewer than two folds."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate's micro IoU in [0, 1], and its difference from the best."""

    name: str
    scores: tuple[float, ...]  # of each fold
    mean: float
    behind: Interval  # the best less this one, paired by fold; 0 for the best

    @property
    def worth_a_try(self) -> bool:
        """Whether the probe cannot distinguish it from the best."""
        return not self.behind.low > 0


def rank_candidates(scores: Mapping[str, Sequence[float]]) -> list[Ranked]:
    """Rank candidates by mean score, best first; `scores` are those of each fold, by name."""
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    order = sorted(scores, key=lambda name: -means[name])
    best = scores[order[0]]
    return [
        Ranked(name, tuple(scores[name]), means[name], paired_interval(best, scores[name]))
        for name in order
    ]


def paired_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The interval of `first` minus `second`, paired by fold."""
    differences = np.subtract(first, second)
    mean, folds = float(differences.mean()), len(differences)
    if folds < 2:
        return Interval(mean, math.nan, math.nan)
    variance = differences.var(ddof=1) * (1 / folds + 1 / (folds - 1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, folds - 1) * math.sqrt(variance))
    return Interval(mean, mean - half, mean + half)
