"""Augmentation parameters of each sample, a function of (seed, epoch, sample) only.

Both pipelines take them as inputs, so a sample gets the same pixels for any number of processes,
any batch, and after any resume. Crop, scale, stretch and flips (swapped bounds) are one antialiased
resize of a region; only rotations by any angle need a second step. A quarter turn is a flip and a
transposition.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pretrain.config import TrainConfig
from pretrain.loading.philox import Stream, uniforms
from pretrain.loading.sample_order import Ids

# Gaussian noise is a window of one fixed bank, scaled: drawing 224 x 224 normal numbers per image
# costs as much as its resize.
NOISE_BANK_SIDE = 1024
VALIDATION_CROP = 0.875  # fraction of the shorter side: the usual 224 of 256

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentParams:
    """Parameters of N samples. Pixel coordinates are (y, x) in the stored image."""

    roi_start: Floats  # (N, 2); larger than roi_end where the sample is flipped
    roi_end: Floats  # (N, 2)
    size: Floats  # (N, 2), pixels after the resize; larger than the crop where a rotation follows
    transposes: npt.NDArray[np.bool_]  # (N,), after the resize
    rotates: npt.NDArray[np.bool_]  # (N,)
    angle: Floats  # (N,), degrees counter-clockwise, around the centre, after the transposition
    contrast: Floats  # (N,), factor
    shift: Floats  # (N,), added, as a fraction of full scale
    noise: Floats  # (N,), standard deviation, as a fraction of full scale
    noise_at: npt.NDArray[np.int32]  # (N, 2), first row and column in the noise bank


def training_params(
    config: TrainConfig,
    epoch: int,
    ids: Ids,
    heights: npt.NDArray[np.integer],
    widths: npt.NDArray[np.integer],
) -> AugmentParams:
    """Paper A's augmentation of these samples in this epoch."""
    u = uniforms(config.seed, Stream.AUGMENT, epoch, ids, 14).T
    is_turned = u[0] < config.rotate_prob
    # Quarter turns are counter-clockwise; 0 where none is drawn.
    turns = np.where(is_turned & (config.rotation_mode == "quarter"), 1 + (3 * u[1]).astype(int), 0)
    rotates = is_turned & (config.rotation_mode == "any")
    angle = np.where(rotates, _signed(u[1]) * config.rotate_degrees, 0.0)
    # A square turned by the angle fits into an upright square `grow` times as large.
    grow = abs(np.cos(np.radians(angle))) + abs(np.sin(np.radians(angle)))
    extent = _crop_extent(config, u[2], u[3], heights, widths)
    image = np.stack([heights, widths], axis=1).astype(np.float64)
    window = extent * grow[:, None]
    # Shrink the crop where the upright square would leave the image, so that no border shows.
    window *= np.minimum(1.0, (image / window).min(axis=1))[:, None]
    start = (image - window) * u[4:6].T
    end = start + window
    flips = np.stack([u[6] < config.vflip_prob, u[7] < config.hflip_prob], axis=1)
    # A quarter turn counter-clockwise is a horizontal flip, then a transposition.
    flips ^= np.stack([turns >= 2, (turns == 1) | (turns == 2)], axis=1)
    contrast = 1 + _signed(u[8]) * config.contrast
    return AugmentParams(
        roi_start=np.where(flips, end, start).astype(np.float32),
        roi_end=np.where(flips, start, end).astype(np.float32),
        size=np.repeat(np.ceil(config.image_size * grow)[:, None], 2, 1).astype(np.float32),
        transposes=turns % 2 == 1,
        rotates=rotates,
        angle=angle.astype(np.float32),
        contrast=contrast.astype(np.float32),
        # Contrast turns around mid-grey: x -> (x - 0.5) * contrast + 0.5 + brightness.
        shift=(0.5 * (1 - contrast) + _signed(u[9]) * config.brightness).astype(np.float32),
        noise=(u[10] * config.noise).astype(np.float32),
        noise_at=(u[11:13].T * (_bank_side(config) - config.image_size + 1)).astype(np.int32),
    )


def validation_params(
    config: TrainConfig, heights: npt.NDArray[np.integer], widths: npt.NDArray[np.integer]
) -> AugmentParams:
    """The central square of each image, or the whole image."""
    count = len(heights)
    image = np.stack([heights, widths], axis=1).astype(np.float64)
    side = image if config.crop == "whole" else VALIDATION_CROP * image.min(axis=1, keepdims=True)
    zeros = np.zeros(count, np.float32)
    return AugmentParams(
        roi_start=((image - side) / 2).astype(np.float32),
        roi_end=((image + side) / 2).astype(np.float32),
        size=np.full((count, 2), config.image_size, np.float32),
        transposes=np.zeros(count, bool),
        rotates=np.zeros(count, bool),
        angle=zeros,
        contrast=np.ones(count, np.float32),
        shift=zeros,
        noise=zeros,
        noise_at=np.zeros((count, 2), np.int32),
    )


def noise_bank(config: TrainConfig) -> Floats:
    """Standard normal numbers, (side, side), from which all noise of a run is cut."""
    generator = np.random.Generator(np.random.Philox(key=config.seed))
    side = _bank_side(config)
    return generator.standard_normal((side, side), dtype=np.float32)


def _bank_side(config: TrainConfig) -> int:
    return max(NOISE_BANK_SIDE, 2 * config.image_size)


def _crop_extent(
    config: TrainConfig,
    area_draw: npt.NDArray[np.float64],
    aspect_draw: npt.NDArray[np.float64],
    heights: npt.NDArray[np.integer],
    widths: npt.NDArray[np.integer],
) -> npt.NDArray[np.float64]:
    """Height and width of each crop, (N, 2): a fraction of the area, inside the image."""
    if config.crop == "whole":
        return np.stack([heights, widths], axis=1).astype(np.float64)
    squares = np.minimum(heights, widths).astype(np.float64) ** 2
    area = squares * (config.crop_area_min + (1 - config.crop_area_min) * area_draw)
    stretch = config.crop_aspect_max ** (_signed(aspect_draw) / 2)
    sides = np.sqrt(area)
    return np.stack([np.minimum(sides / stretch, heights), np.minimum(sides * stretch, widths)], 1)


def _signed(params: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 2 * params - 1
