"""How far images lie from the source in the statistics that batch norm sees.

Each channel of the input of each of the encoder's batch norms is taken as a Gaussian, of the mean
and variance over an image. Li et al. 2016 (AdaBN, arXiv:1603.04779, section 3) show that these
tell domains apart, and compare them by their symmetric Kullback-Leibler divergence. That has no
bound where a deviation vanishes, as blur makes them do; so here the distance is Wasserstein's
(Dowson and Landau 1982, J. Multivar. Anal. 12, equation 4), in deviations of the source:

    d² = ((m - m_s)² + (s - s_s)²) / s_s²,    its root mean square over channels, mean over layers
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from downstream.uda.batchnorm import batch_norms

Values = npt.NDArray[np.float64]
_FLOOR = 1e-5  # of a variance: batch norm's own


@dataclass(frozen=True, slots=True)
class Moments:
    """Of each layer, the channels' means and variances, each `(C,)`."""

    means: tuple[Values, ...]
    variances: tuple[Values, ...]


@contextmanager
def watch_moments(encoder: nn.Module) -> Iterator["Watch"]:
    """Watch what passes through the batch norms of `encoder`; `moments()` sums it up."""
    watch = Watch()
    handles = [
        layer.register_forward_pre_hook(watch.of_layer(number))
        for number, layer in enumerate(batch_norms(encoder))
    ]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


class Watch:
    """Sums of all that has passed through layers."""

    def __init__(self) -> None:
        self._sums: dict[int, torch.Tensor] = {}  # (3, C): count, sum, sum of squares

    def of_layer(self, number: int) -> "_Hook":
        return _Hook(self, number)

    def add(self, number: int, values: torch.Tensor) -> None:
        flat = values.detach().double().transpose(0, 1).flatten(1)
        count = torch.full_like(flat[:, 0], flat.shape[1])
        sums = torch.stack([count, flat.sum(1), flat.square().sum(1)])
        self._sums[number] = self._sums[number] + sums if number in self._sums else sums

    def moments(self) -> Moments:
        """Of all so far; no layers where there is no batch norm."""
        parts = [self._sums[number].cpu().numpy() for number in sorted(self._sums)]
        means = tuple(total / count for count, total, _ in parts)
        squares = tuple(square / count for count, _, square in parts)
        pairs = zip(squares, means, strict=True)
        return Moments(means, tuple(np.maximum(square - mean**2, 0) for square, mean in pairs))


@dataclass(frozen=True, slots=True)
class _Hook:
    watch: Watch
    number: int

    def __call__(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.watch.add(self.number, inputs[0])


def pool(parts: Sequence[Moments]) -> Moments:
    """The moments of several images together, each weighing the same."""
    means, variances = [], []
    for layer in range(len(parts[0].means)):
        own = np.stack([part.means[layer] for part in parts])
        spread = np.stack([part.variances[layer] for part in parts])
        means.append(own.mean(0))
        variances.append(spread.mean(0) + own.var(0))
    return Moments(tuple(means), tuple(variances))


def distance(moments: Moments, source: Moments) -> float:
    """The mean distance over layers; nan where there is no batch norm."""
    layers = [
        np.sqrt(np.mean(((m - m_s) ** 2 + (np.sqrt(v) - np.sqrt(v_s)) ** 2) / (v_s + _FLOOR)))
        for m, v, m_s, v_s in zip(
            moments.means, moments.variances, source.means, source.variances, strict=True
        )
    ]
    return float(np.mean(layers)) if layers else float("nan")
