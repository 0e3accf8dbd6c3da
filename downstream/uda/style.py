"""The target's style on source images: its amplitudes of low frequency (FDA).

Yang and Soatto 2020 (arXiv:2004.05498), section 3.1. What is bright and what is dark lies in the
phase: an inverted domain needs inverting, this does not.
"""

import torch


def fda(source: torch.Tensor, target: torch.Tensor, beta: float) -> torch.Tensor:
    """Source images with the amplitudes of target images, phases kept; both `(N, C, H, W)`.

    Taken are the frequencies of at most `beta` · height and `beta` · width cycles per image (the
    mean grey among them), each channel by itself; with `beta` 0 none. Give grey values as stored,
    0 to 255, before any normalisation. Float32, not clipped: a few values leave the range.
    Raises `ValueError` where shapes differ.
    """
    if source.shape != target.shape:
        raise ValueError(f"fda needs equal shapes, not {source.shape} and {target.shape}")
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
