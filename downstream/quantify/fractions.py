"""Phase fractions and how far another field of view might differ. Imports no torch.

Pixels are not independent: an image of area A holds about A / a of independent ones, where a is the
integral range, the integral of the correlation over all shifts (Lantuéjoul 1991, J. Microsc. 161;
Kanit et al. 2003, Int. J. Solids Struct. 40, eq. 14). So the standard error of a fraction f is

    se² = f (1 - f) a / A

The integral range is estimated from the image's own correlation, summed to the first radius at
which it is no longer positive. This holds where the image is many correlation lengths wide;
`grains`, A / a, tells. Several images of one material are better: their spread needs no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.stats import norm, t

MAX_SIDE = 1024  # pixels; for the correlation, larger masks are averaged over square cells
FEW_GRAINS = 20  # below it the standard error itself is a guess
BOOTSTRAPS = 2000

Region = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fraction:
    """An area fraction with its standard error, and an interval of the asked confidence."""

    value: float
    standard_error: float  # nan where it cannot be told
    low: float
    high: float
    grains: float  # independent areas that it is a mean of, A / a; of several images: their number


def fraction_of(region: Region, confidence: float, model_error: float = 0.0) -> Fraction:
    """The fraction of one image; `model_error` is the spread between several networks.

    The interval is Wilson's, of as many independent areas as the correlation leaves.
    """
    value = float(region.mean())
    area = region.size
    variance = value * (1 - value)
    if variance == 0:
        nan = float("nan")  # how rare it is elsewhere, an image without it does not tell
        return Fraction(value, nan, value if value == 0 else nan, value if value else nan, nan)
    grains = max(area / integral_range(region), 1.0)
    sampled = variance / grains
    error = float(np.sqrt(sampled + model_error**2))
    effective = variance / error**2
    low, high = _wilson(value, effective, confidence)
    return Fraction(value, error, low, high, grains)


def mean_fraction(
    values: Sequence[float], areas: Sequence[int], confidence: float, seed: int
) -> Fraction:
    """The fraction over several images, weighted by area; the interval is from their bootstrap.

    Below five images the bootstrap is too narrow, and Student's t of their spread stands in.
    """
    shares, weights = np.array(values), np.array(areas, float)
    count = len(shares)
    mean = float(np.average(shares, weights=weights))
    if count < 2:
        return Fraction(mean, float("nan"), float("nan"), float("nan"), float(count))
    # Of a ratio: the images' areas differ (Cochran, Sampling Techniques, eq. 2.39).
    away = weights / weights.mean() * (shares - mean)
    error = float(np.sqrt((away**2).sum() / (count * (count - 1))))
    if count < 5:
        reach = float(t.ppf((1 + confidence) / 2, count - 1)) * error
        return Fraction(mean, error, max(mean - reach, 0), min(mean + reach, 1), float(count))
    drawn = np.random.default_rng(seed).integers(0, count, (BOOTSTRAPS, count))
    means = (shares[drawn] * weights[drawn]).sum(1) / weights[drawn].sum(1)
    low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Fraction(mean, error, float(low), float(high), float(count))


def integral_range(region: Region) -> float:
    """The integral range in pixels²: the area of one independent piece of the image."""
    cell = -(-max(region.shape) // MAX_SIDE)
    field = _cells(region.astype(np.float32), cell)
    variance = float(region.mean() * (1 - region.mean()))
    covariance = _covariance(field - field.mean())
    rows, columns = (np.arange(n) - n // 2 for n in covariance.shape)
    radii = np.hypot(rows[:, None], columns[None]).astype(int).ravel()
    inside = radii < min(field.shape) // 2
    radii, values = radii[inside], covariance.ravel()[inside]
    sums = np.bincount(radii, values)
    negative = np.flatnonzero(sums <= 0)
    end = negative[0] if len(negative) else len(sums)
    return float(max(sums[:end].sum() * cell**2 / variance, 1.0))


def _cells(values: npt.NDArray[np.float32], cell: int) -> npt.NDArray[np.float32]:
    """Means over squares of `cell` pixels; an incomplete rim is left out."""
    if cell == 1:
        return values
    height, width = (n // cell for n in values.shape)
    cut = values[: height * cell, : width * cell]
    return np.asarray(cut.reshape(height, cell, width, cell).mean((1, 3)))


def _covariance(field: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Covariance for all shifts, zero in the middle; each is a mean over the pairs there are."""
    shape = tuple(2 * n for n in field.shape)
    spectrum = fft.rfft2(field, shape)
    products = fft.irfft2(spectrum * spectrum.conj(), shape)
    pairs = np.outer(*(n - np.abs(fft.fftfreq(2 * n, 1 / (2 * n))) for n in field.shape))
    return np.asarray(fft.fftshift(products / np.maximum(pairs, 1)), np.float64)


def _wilson(value: float, effective: float, confidence: float) -> tuple[float, float]:
    z = float(norm.ppf((1 + confidence) / 2))
    centre = (value + z**2 / (2 * effective)) / (1 + z**2 / effective)
    reach = z * np.sqrt(value * (1 - value) / effective + z**2 / (4 * effective**2))
    reach /= 1 + z**2 / effective
    return max(float(centre - reach), 0.0), min(float(centre + reach), 1.0)
