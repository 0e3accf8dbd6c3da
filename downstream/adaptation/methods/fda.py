"""Fourier domain adaptation (FDA): transfer low-frequency amplitudes from target to source.

Yang and Soatto 2020 (arXiv:2004.05498), section 3.1. Polarity is in the phase, which is kept: FDA
cannot replace the inversion of an inverted domain.
"""

import torch


def fda(source: torch.Tensor, target: torch.Tensor, beta: float) -> torch.Tensor:
    """Source images with the low-frequency amplitudes of target images; both `(N, C, H, W)`.

    Replaces the amplitudes of frequencies up to `beta` · height and `beta` · width cycles per image
    (including the mean) in each channel; none if `beta` is 0. Takes stored grey values, 0 to 255,
    before normalisation; returns float32 without clipping, so some values exceed the range.
    """
    if beta == 0:
        return source.float()
    height, width = source.shape[2:]
    own = torch.fft.rfft2(source.float())
    other = torch.fft.rfft2(target.float())
    rows = torch.fft.fftfreq(height, device=source.device).abs() <= beta
    columns = torch.fft.rfftfreq(width, device=source.device) <= beta
    low = rows[:, None] & columns
    mixed = torch.where(low, torch.polar(other.abs(), own.angle()), own)
    image: torch.Tensor = torch.fft.irfft2(mixed, s=(height, width))
    return image
