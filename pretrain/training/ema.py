"""Weight averaging: an exponential moving average of a model, which the run then keeps.

Polyak and Juditsky 1992; Tarvainen and Valpola 2017 (mean teachers), section 2.
"""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from pretrain.config import TrainConfig


class Ema:
    """The exponential moving average of a model's weights and running statistics.

    The half-life is in epochs, so a recipe means the same for any corpus and batch size.
    """

    def __init__(self, model: nn.Module, half_life: float) -> None:
        # Copy before accelerate prepares the model: the copy of a prepared model would compute with
        # the weights of the original.
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._half_life = half_life

    @torch.no_grad()
    def update(self, model: nn.Module, epoch: int, step: int, steps_per_epoch: int) -> None:
        """Move towards `model` (unwrapped) after this step."""
        decay = 0.5 ** (1 / (self._half_life * steps_per_epoch))
        # Early on, average over a tenth of the steps so far, to forget the initial weights.
        done = epoch * steps_per_epoch + step
        weight = 1 - min(decay, (1 + done) / (10 + done))
        lerp_towards(list(_tensors(self.model)), list(_tensors(model)), weight)


def lerp_towards(
    averages: Sequence[torch.Tensor], currents: Sequence[torch.Tensor], weight: float
) -> None:
    """Move floating-point `averages` towards `currents` by `weight` in [0, 1]; copy the others."""
    floats = [i for i, tensor in enumerate(averages) if tensor.is_floating_point()]
    torch._foreach_lerp_([averages[i] for i in floats], [currents[i] for i in floats], weight)
    for average, current in zip(averages, currents, strict=True):
        if not average.is_floating_point():  # batch norm's count of batches
            average.copy_(current)


def build_ema(model: nn.Module, config: TrainConfig) -> Ema | None:
    """The average as configured, or None; it starts at the model's weights."""
    return None if config.ema_epochs is None else Ema(model, config.ema_epochs)


def _tensors(model: nn.Module) -> Iterable[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()
