"""Statistics of several runs: spread, intervals and paired differences. No torch.

Every interval states its method and its number of values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

Array = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 10_000
BOOTSTRAP_SEED = 0
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval at the level `CONFIDENCE`; nan for too few values."""

    low: float
    high: float
    method: str
    n: int


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """A difference over pairs of runs that are otherwise equal."""

    pairs: int
    wins: int  # pairs with a difference above 0
    mean: float
    bootstrap: Interval
    student: Interval
    images: int  # common to all pairs
    image_mean: float  # of the scores of single images
    image_bootstrap: Interval
    values: tuple[float, ...]  # of the pairs; over several strata, the means of the strata


def paired_difference(strata: Sequence[Array], by_image: Sequence[Array]) -> PairedDifference:
    """Summarise the differences of pairs, each stratum with equal weight.

    Each axis of a stratum is a kind of cluster, such as folds or seeds; `by_image` has one more
    axis for the images. Student's interval is over the first axis, or over the others if that has
    length 1; it is nan for several strata.
    """
    repeated = all(values.size > 1 for values in strata)
    imaged = all(values.size > 0 for values in by_image)
    means = np.array([values.mean() for values in strata])
    first = strata[0]
    clusters = first.reshape(len(first), -1).mean(1) if len(first) > 1 else first.ravel()
    return PairedDifference(
        pairs=sum(values.size for values in strata),
        wins=sum(int((values > 0).sum()) for values in strata),
        mean=float(means.mean()),
        bootstrap=bootstrap_mean(strata if repeated else []),
        student=student_interval(clusters if len(strata) == 1 else np.array([])),
        images=sum(values.shape[-1] for values in by_image),
        image_mean=float(np.mean([values.mean() for values in by_image])) if imaged else NAN,
        image_bootstrap=bootstrap_mean(by_image if imaged and repeated else []),
        values=tuple((first.ravel() if len(strata) == 1 else means).tolist()),
    )


def student_interval(values: Array) -> Interval:
    """Student's t interval of the mean of `(n,)`: exact for normal values, however few."""
    half = NAN
    if len(values) > 1:
        from scipy import stats  # takes a second to import, which not all reports need

        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    mean = values.mean() if len(values) else NAN
    return Interval(float(mean - half), float(mean + half), "Student's t", len(values))


def bootstrap_mean(strata: Sequence[Array]) -> Interval:
    """Percentile interval of the mean of the strata's means; each axis is resampled separately.

    Scores of one image from several runs are not independent, nor are those of one run on several
    images: both are clusters (Owen 2007, "The pigeonhole bootstrap"; it is conservative).
    """
    return _bootstrap(strata, lambda *means: sum(means) / len(means))


def bootstrap_ratio(part: Array, whole: Array) -> Interval:
    """Percentile interval of mean(`part`) / mean(`whole`), of equal shape and resampled jointly."""
    both = np.stack([part, whole], axis=-1)
    return _bootstrap([both], lambda means: means[..., 0] / means[..., 1], fixed_axes=1)


def pooled_std(values: "pd.Series[float]", by: "pd.Series[int]") -> float:
    """Root of the mean variance within groups, weighted by their degrees of freedom."""
    groups = values.groupby(by.to_numpy())
    freedom = len(values) - groups.ngroups
    squares = ((values - groups.transform("mean")) ** 2).sum()
    return float(np.sqrt(squares / freedom)) if freedom else NAN


def range_coverage(n: int) -> float:
    """The probability that the range of `n` values contains their median: 1 - 2 (1/2)^n.

    For up to three values the percentile interval is this range: the rarest resample, one value
    only, is more probable than the tail that is cut off.
    """
    return 1 - 2 * 0.5**n


def _bootstrap(
    strata: Sequence[Array], combine: Callable[..., Array], fixed_axes: int = 0
) -> Interval:
    """Resample all axes of each stratum but the last `fixed_axes`, and combine the means."""
    axes = [
        (stratum, axis)
        for stratum, values in enumerate(strata)
        for axis in range(values.ndim - fixed_axes)
        if values.shape[axis] > 1
    ]
    n = sum(int(np.prod(values.shape[: values.ndim - fixed_axes])) for values in strata)
    if not axes:
        return Interval(NAN, NAN, "percentile bootstrap", n)

    def statistic(*indices: npt.NDArray[np.int64], axis: int) -> Array:
        means = []
        for number, values in enumerate(strata):
            dimensions = values.ndim - fixed_axes
            index = [np.zeros((1,) * dimensions, np.int64)] * dimensions
            for (stratum, position), drawn in zip(axes, indices, strict=True):
                if stratum == number:
                    others = dimensions - 1 - position
                    shape = (*drawn.shape[:-1], *(1,) * position, drawn.shape[-1], *(1,) * others)
                    index[position] = drawn.reshape(shape)
            last = tuple(range(-dimensions - fixed_axes, -fixed_axes))
            means.append(values[tuple(index)].mean(axis=last))
        return combine(*means)

    from scipy import stats

    result = stats.bootstrap(
        [np.arange(strata[stratum].shape[axis]) for stratum, axis in axes],
        statistic,
        n_resamples=RESAMPLES,
        batch=1000,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=BOOTSTRAP_SEED,
    )
    low, high = result.confidence_interval
    return Interval(float(low), float(high), "percentile bootstrap", n)
