"""Averaged weights."""

import torch
from torch import nn

from pretrain.config import TrainConfig
from pretrain.training.ema import Ema, build_ema


def test_the_average_forgets_half_in_its_half_life() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    ema = Ema(model, half_life=2.0)
    nn.init.zeros_(model.weight)
    for step in range(500, 520):  # ten steps an epoch: two epochs, far from the beginning
        ema.update(model, *divmod(step, 10), 10)
    assert torch.allclose(ema.model.weight, torch.tensor(0.5))
    assert model.weight.item() == 0


def test_the_initial_weights_are_soon_forgotten() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    ema = Ema(model, half_life=100.0)
    nn.init.zeros_(model.weight)
    for step in range(10):
        ema.update(model, 0, step, 10)
    assert ema.model.weight.item() < 1e-3  # the product of (1 + t) / (10 + t)


def test_running_statistics_are_averaged_and_their_count_is_copied() -> None:
    model = nn.BatchNorm2d(3)
    ema = Ema(model, half_life=1.0)
    for step in range(2):
        model(torch.randn(4, 3, 2, 2) + 5)
        ema.update(model, 0, step, 10)
    assert 0 < ema.model.running_mean.mean() < model.running_mean.mean()  # type: ignore[operator, union-attr]
    assert ema.model.num_batches_tracked == model.num_batches_tracked == 2


def test_averaging_is_off_by_default() -> None:
    assert build_ema(nn.Linear(1, 1), TrainConfig(arch="resnet18")) is None
