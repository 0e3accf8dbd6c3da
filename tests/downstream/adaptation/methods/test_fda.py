"""FDA: low-frequency amplitudes come from the target, all else from the source."""

import pytest
import torch

from downstream.adaptation.methods.fda import fda

SIZES = [(16, 16), (17, 16), (16, 21), (33, 15)]


def images(seed: int, *size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, *size), generator=generator).float()


@pytest.mark.parametrize("size", SIZES)
def test_beta_0_is_the_identity(size: tuple[int, int]) -> None:
    source = images(0, *size)
    assert torch.equal(fda(source, images(1, *size), 0.0), source)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("beta", [0.01, 0.15, 0.5])
def test_low_amplitudes_are_the_targets_and_phases_the_sources(
    size: tuple[int, int], beta: float
) -> None:
    source, target = images(0, *size), images(1, *size)
    mixed = fda(source, target, beta)
    assert mixed.shape == source.shape and mixed.dtype == torch.float32
    height, width = size
    low = (torch.fft.fftfreq(height).abs() <= beta)[:, None] & (
        torch.fft.fftfreq(width).abs() <= beta
    )
    assert low.sum() == (2 * int(beta * height) + 1) * (2 * int(beta * width) + 1) or beta == 0.5
    ours, theirs, found = (torch.fft.fft2(each.double()) for each in (source, target, mixed))
    expected = torch.where(low, theirs.abs(), ours.abs())
    assert torch.allclose(found.abs(), expected, rtol=1e-4, atol=1e-2)
    assert torch.allclose(found / found.abs(), ours / ours.abs(), atol=1e-3)


def test_polarity_stays_the_sources() -> None:
    """What FDA cannot do: an inverted source stays inverted, so the domain must be inverted."""
    stripes = (torch.arange(32) // 4 % 2 * 200.0 + 20).expand(1, 3, 32, 32)
    mixed = fda(255 - stripes, stripes, 0.5)
    assert torch.corrcoef(torch.stack([mixed.flatten(), stripes.flatten()]))[0, 1] < -0.9


def test_uint8_is_accepted() -> None:
    source = images(0, 16, 16)
    assert torch.equal(fda(source.byte(), source.byte(), 0.0), source)
