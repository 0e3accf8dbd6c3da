"""How far a phase fraction may be off: the sample, the runs, and the shift.

The error that a network makes is taken to grow with the loss of mIoU that is forecast for it. By
how much, the rehearsals tell: their errors in shares of that loss, at the quantile that covers as
many as asked (split conformal prediction with a scale, Lei et al. 2018, J. Am. Stat. Assoc. 113,
section 5.2; the rehearsals' losses are forecast by the others). What a limited field of view
leaves open comes from `quantify.fractions`, and the two are independent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from downstream.quantify.fractions import Fraction, fraction_of, mean_fraction
from downstream.uda.transfer.forecast import Forecast

Regions = Sequence[npt.NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class FractionInterval:
    """A phase fraction and where it may lie."""

    value: float
    reach: float  # what the network may be off, of these very images
    low: float  # of the material: sampling added
    high: float


def model_reach(
    forecasts: Sequence[Forecast], expected: Sequence[float], class_index: int, confidence: float
) -> float:
    """How far a class's fraction may be off by the networks' fault.

    `expected`: the mIoU that each forecast gives of the images in question.
    """
    ratios = [
        abs(float(scored.fraction_errors[class_index])) / _scale(forecast, float(left_out))
        for forecast in forecasts
        for scored, left_out in zip(forecast.scored, forecast.left_out, strict=True)
    ]
    rank = min(math.ceil((len(ratios) + 1) * confidence), len(ratios))
    scale = float(np.mean([_scale(f, miou) for f, miou in zip(forecasts, expected, strict=True)]))
    return min(sorted(ratios)[rank - 1] * scale, 1.0)


def image_interval(
    region: npt.NDArray[np.bool_], reach: float, spread: float, confidence: float
) -> FractionInterval:
    """Of one image's material; `spread` is the runs' standard deviation."""
    return _widened(fraction_of(region, confidence, spread), reach, reach)


def domain_interval(
    regions: Regions, reach: float, spread: float, confidence: float
) -> FractionInterval:
    """Of the material that several images show."""
    if len(regions) == 1:
        return image_interval(regions[0], reach, spread, confidence)
    values, areas = [float(r.mean()) for r in regions], [r.size for r in regions]
    sampled = mean_fraction(values, areas, confidence, seed=0)
    of_runs = spread * float(norm.ppf((1 + confidence) / 2))
    return _widened(sampled, reach, math.hypot(reach, of_runs))


def _scale(forecast: Forecast, miou: float) -> float:
    """The loss of mIoU, but no less than a forecast can tell."""
    return max(forecast.source_miou - miou, 0.0) + forecast.error


def _widened(sampled: Fraction, reach: float, further: float) -> FractionInterval:
    low, high = (
        math.hypot(0.0 if math.isnan(end) else end - sampled.value, further)
        for end in (sampled.low, sampled.high)
    )
    return FractionInterval(
        sampled.value, reach, max(sampled.value - low, 0.0), min(sampled.value + high, 1.0)
    )
