"""Paired differences between two initialisations, with bootstrap intervals: by run and by image.

A pair is two runs that differ in the initialisation alone: same experiment, decoder, arch, seed,
budget and data. Paper A compares means of unpaired cells, one run each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from downstream.bench.runs import Run, in_order

Array = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 10_000
BOOTSTRAP_SEED = 0
ALL = "all, equally weighted"


@dataclass(frozen=True, slots=True)
class Difference:
    """Micro IoU with `init` less that with `baseline`, both on the same test images."""

    experiment: str  # or ALL
    baseline: str
    init: str
    pairs: int  # of runs
    failed: int  # pairs with a collapsed run
    images: int  # that all pairs were tested on
    wins: int  # pairs in which `init` scores higher
    mean: float  # over the pairs
    low: float  # percentile bootstrap over the pairs
    high: float
    t_low: float  # Student's t: exact where differences are normal, however few
    t_high: float
    image_mean: float  # over pairs and images
    image_low: float  # bootstrap over both at once
    image_high: float
    values: tuple[float, ...]  # of the pairs; of ALL, of the experiments


def differences(runs: Sequence[Run], baseline: str) -> list[Difference]:
    """Each initialisation against `baseline`, by experiment and, of several, over all."""
    found = []
    for init in in_order(run.init for run in runs):
        if init == baseline:
            continue
        groups = {
            experiment: pairs
            for experiment in in_order(run.experiment for run in runs)
            if (pairs := pair_runs([r for r in runs if r.experiment == experiment], baseline, init))
        }
        found += [_difference(name, [pairs], baseline, init) for name, pairs in groups.items()]
        if len(groups) > 1:
            found.append(_difference(ALL, list(groups.values()), baseline, init))
    return found


def pair_runs(runs: Sequence[Run], baseline: str, init: str) -> list[tuple[Run, Run]]:
    """(run from `baseline`, run from `init`) that are equal in all else; unpaired ones are left."""
    scored = [run for run in runs if run.scored]
    others = {run.twin: run for run in scored if run.init == init}
    return [(r, others[r.twin]) for r in scored if r.init == baseline and r.twin in others]


def bootstrap_mean(strata: Sequence[Array]) -> tuple[float, float]:
    """Percentile interval of the mean of the means of strata `(n,)`, each resampled by itself."""
    return bootstrap_crossed([values[:, None] for values in strata])


def bootstrap_crossed(strata: Sequence[Array]) -> tuple[float, float]:
    """The same for values of (pairs, images), resampling pairs and images independently.

    Scores of one image from several runs are not independent, nor are those of one run on several
    images: both are clusters (Owen 2007, "The pigeonhole bootstrap"; it errs on the wide side). Any
    further axis is one more kind of cluster.
    """
    return percentile_interval(resampled_means(strata))


def resampled_means(strata: Sequence[Array]) -> Array:
    """The mean of the means of strata, `(RESAMPLES,)`, every axis of each resampled by itself.

    The draws depend on the shapes alone, so two calls with values of one shape give paired draws.
    """
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    total = np.zeros(RESAMPLES)
    for values in strata:
        weights = [rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in values.shape]
        first, *others = values.shape
        means = (weights[0] @ values.reshape(first, -1)).reshape(RESAMPLES, *others)
        for weight in weights[1:]:
            means = np.einsum("rk...,rk->r...", means, weight)
        total += means / len(strata)
    return total


def percentile_interval(resampled: Array) -> tuple[float, float]:
    """The central CONFIDENCE of resampled values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def t_interval(values: Array) -> tuple[float, float]:
    """Student's interval of the mean of `(n,)`; nan for a single value."""
    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def range_coverage(pairs: int) -> float:
    """How often the range of so many differences holds their median: 1 - 2 (1/2)^n.

    Up to three pairs the percentile interval is that range: the rarest resample, all of one value,
    is more probable than the tail that is cut off.
    """
    return 1 - 2 * 0.5**pairs


def _difference(
    name: str, groups: Sequence[Sequence[tuple[Run, Run]]], baseline: str, init: str
) -> Difference:
    by_run = [np.array([_score(b) - _score(a) for a, b in pairs]) for pairs in groups]
    by_image = [_image_differences(pairs) for pairs in groups]
    values = by_run[0] if len(groups) == 1 else np.array([v.mean() for v in by_run])
    nan = (float("nan"), float("nan"))
    several = all(len(values) > 1 for values in by_run)
    imaged = all(matrix.size for matrix in by_image)
    low, high = bootstrap_mean(by_run) if several else nan
    t_low, t_high = t_interval(values) if len(groups) == 1 else nan
    image_low, image_high = bootstrap_crossed(by_image) if imaged and several else nan
    every = [pair for pairs in groups for pair in pairs]
    return Difference(
        experiment=name,
        baseline=baseline,
        init=init,
        pairs=len(every),
        failed=sum(bool(a.failure or b.failure) for a, b in every),
        images=sum(matrix.shape[1] for matrix in by_image),
        wins=sum(_score(b) > _score(a) for a, b in every),
        mean=float(np.mean([v.mean() for v in by_run])),
        low=low,
        high=high,
        t_low=t_low,
        t_high=t_high,
        image_mean=float(np.mean([m.mean() for m in by_image])) if imaged else float("nan"),
        image_low=image_low,
        image_high=image_high,
        values=tuple(float(value) for value in values),
    )


def _image_differences(pairs: Sequence[tuple[Run, Run]]) -> Array:
    """(pairs, images), of the images that all the runs have a score of."""
    scores = [(a.image_micro_iou or {}, b.image_micro_iou or {}) for a, b in pairs]
    names = [
        name
        for name in scores[0][0]
        if all(side.get(name) is not None for pair in scores for side in pair)
    ]
    return np.array([[b[name] - a[name] for name in names] for a, b in scores]).reshape(
        len(pairs), len(names)
    )


def _score(run: Run) -> float:
    if run.micro_iou is None:
        raise ValueError(f"{run.folder} has no test score")
    return run.micro_iou
