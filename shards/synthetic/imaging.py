"""Image a drawing as a microscope does: contrast, blur, shading, charging and noise."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from shards.synthetic.drawing import Field, chance, grid, log_uniform


def micrograph(image: Field, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Image a drawing (float32 in [0, 1]) as 8 bits.

    All parameters are drawn independently of the content, so neither brightness nor noise gives the
    class away.
    """
    seen = _focused(_exposed(image, rng), rng)
    seen = seen * _shading(image.shape[0], rng) + _charging(image.shape[0], rng)
    return _recorded(_detected(seen, rng), rng)


def _exposed(image: Field, rng: np.random.Generator) -> Field:
    """Set brightness, contrast and gamma, as an operator does: from the image's own grey range."""
    low, high = np.percentile(image[::2, ::2], (1, 99))
    black, white = rng.uniform(0.03, 0.35), rng.uniform(0.55, 0.97)
    # A nearly uniform field must not be stretched into pure noise.
    unit = np.clip((image - low) / max(high - low, 0.05), -0.2, 1.2)
    stretched = np.clip(black + (white - black) * unit, 0, 1)
    return np.asarray(stretched ** log_uniform(rng, 0.7, 1.4), dtype=np.float32)


def _focused(image: Field, rng: np.random.Generator) -> Field:
    """Blur by the probe, with a little astigmatism (in pixels, so fine detail is what suffers)."""
    probe = log_uniform(rng, 0.35, 1.1)
    astigmatism = log_uniform(rng, 0.8, 1.25)
    blurred = ndimage.gaussian_filter(image, (probe * astigmatism, probe / astigmatism))
    return np.asarray(blurred, dtype=np.float32)


def _shading(size: int, rng: np.random.Generator) -> Field:
    """Uneven collection over the field of view: a tilt and a bow, both slow."""
    y, x = grid(size)
    y, x = y * np.float32(2 / size) - 1, x * np.float32(2 / size) - 1
    tilt_y, tilt_x, bow = rng.normal(0, (0.07, 0.07, 0.06))
    return np.asarray(1 + tilt_y * y + tilt_x * x + bow * (y**2 + x**2 - 0.67), dtype=np.float32)


def _charging(size: int, rng: np.random.Generator) -> Field:
    """Offsets along the scan lines: beam noise, slow drift and, at times, streaks."""
    lines = rng.normal(0, rng.uniform(0, 0.012), size)
    lines += np.cumsum(rng.normal(0, rng.uniform(0, 0.004), size))
    offset = np.repeat(lines.astype(np.float32)[:, None], size, axis=1)
    if chance(rng, 0.25):
        for row in rng.integers(0, size, rng.integers(1, 5)):
            start = int(rng.integers(0, size))
            decay = np.exp(-np.arange(size - start) / (0.3 * size))
            offset[row, start:] += np.float32(rng.normal(0, 0.15)) * decay.astype(np.float32)
    return offset


def _detected(image: Field, rng: np.random.Generator) -> Field:
    """Count electrons (shot noise) and amplify them (thermal noise)."""
    electrons = log_uniform(rng, 60, 1500)  # per fully bright pixel
    counted = rng.poisson(np.clip(image, 0, 2) * electrons).astype(np.float32) / electrons
    thermal = rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(counted + rng.uniform(0.002, 0.02) * thermal, dtype=np.float32)


def _recorded(image: Field, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Digitise; sometimes after the line averaging that many instruments apply."""
    if chance(rng, 0.3):
        image = ndimage.gaussian_filter(image, 0.6)
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
