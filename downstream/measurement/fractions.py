"""Phase fractions with their sampling error from field of view to field of view. No torch.

Pixels are not independent: an image of area A is worth about A / a independent samples, where a is
the integral range, the integral of the correlation over all shifts (Lantuéjoul 1991, J. Microsc.
161; Kanit et al. 2003, Int. J. Solids Struct. 40, eq. 14). The standard error of a fraction f is

    se² = f (1 - f) a / A

The integral range is estimated from the image's own correlation, summed up to the first radius at
which it is not positive. This is valid if the image is many correlation lengths wide, that is if
`independent_areas`, A / a, is large. Several images of a material are better: their spread needs no
model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, special  # scipy.stats takes a second to import

MAX_SIDE = 1024  # pixels; larger masks are averaged over square blocks before the correlation
MIN_INDEPENDENT_AREAS = 20  # with fewer, the standard error itself is unreliable
BOOTSTRAPS = 2000

Region = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fraction:
    """An area fraction with its standard error and confidence interval."""

    value: float
    standard_error: float  # nan if unknown
    low: float
    high: float
    independent_areas: float  # A / a; for several images, their number


def estimate_fraction(region: Region, confidence: float, model_error: float = 0.0) -> Fraction:
    """The fraction of one image; `model_error` is the standard deviation between networks.

    The interval is Wilson's, with the number of independent areas as the sample size.
    """
    value = float(region.mean())
    area = region.size
    variance = value * (1 - value)
    if variance == 0:
        nan = float("nan")  # an image without the class does not say how rare it is
        return Fraction(value, nan, value if value == 0 else nan, value if value else nan, nan)
    independent_areas = max(area / integral_range(region), 1.0)
    sampling_variance = variance / independent_areas
    error = float(np.sqrt(sampling_variance + model_error**2))
    effective = variance / error**2
    low, high = _wilson(value, effective, confidence)
    return Fraction(value, error, low, high, independent_areas)


def mean_fraction(
    values: Sequence[float], areas: Sequence[int], confidence: float, seed: int
) -> Fraction:
    """The fraction over several images, weighted by area, with a bootstrap interval.

    With fewer than five images the bootstrap is too narrow, so Student's t is used instead.
    """
    fractions, weights = np.array(values), np.array(areas, float)
    count = len(fractions)
    mean = float(np.average(fractions, weights=weights))
    if count < 2:
        return Fraction(mean, float("nan"), float("nan"), float("nan"), float(count))
    # Ratio estimator, because the areas differ (Cochran, Sampling Techniques, eq. 2.39).
    residuals = weights / weights.mean() * (fractions - mean)
    error = float(np.sqrt((residuals**2).sum() / (count * (count - 1))))
    if count < 5:
        half = float(special.stdtrit(count - 1, (1 + confidence) / 2)) * error
        return Fraction(mean, error, max(mean - half, 0), min(mean + half, 1), float(count))
    drawn = np.random.default_rng(seed).integers(0, count, (BOOTSTRAPS, count))
    means = (fractions[drawn] * weights[drawn]).sum(1) / weights[drawn].sum(1)
    low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Fraction(mean, error, float(low), float(high), float(count))


def integral_range(region: Region) -> float:
    """The integral range in pixels²: the area of one independent sample of the image."""
    block = -(-max(region.shape) // MAX_SIDE)
    field = _block_means(region.astype(np.float32), block)
    variance = float(region.mean() * (1 - region.mean()))
    covariance = _covariance(field - field.mean())
    rows, columns = (np.arange(n) - n // 2 for n in covariance.shape)
    radii = np.hypot(rows[:, None], columns[None]).astype(int).ravel()
    inside = radii < min(field.shape) // 2
    radii, values = radii[inside], covariance.ravel()[inside]
    sums = np.bincount(radii, values)
    negative = np.flatnonzero(sums <= 0)
    end = negative[0] if len(negative) else len(sums)
    return float(max(sums[:end].sum() * block**2 / variance, 1.0))


def _block_means(values: npt.NDArray[np.float32], block: int) -> npt.NDArray[np.float32]:
    """Means over squares of `block` pixels; incomplete blocks at the border are dropped."""
    if block == 1:
        return values
    height, width = (n // block for n in values.shape)
    complete = values[: height * block, : width * block]
    return np.asarray(complete.reshape(height, block, width, block).mean((1, 3)))


def _covariance(field: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Covariance at all shifts, zero shift in the centre; each is a mean over its pixel pairs."""
    shape = tuple(2 * n for n in field.shape)
    spectrum = fft.rfft2(field, shape)
    products = fft.irfft2(spectrum * spectrum.conj(), shape)
    pairs = np.outer(*(n - np.abs(fft.fftfreq(2 * n, 1 / (2 * n))) for n in field.shape))
    return np.asarray(fft.fftshift(products / np.maximum(pairs, 1)), np.float64)


def _wilson(value: float, effective: float, confidence: float) -> tuple[float, float]:
    z = float(special.ndtri((1 + confidence) / 2))
    centre = (value + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z * np.sqrt(value * (1 - value) / effective + z**2 / (4 * effective**2))
    half /= 1 + z**2 / effective
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)
