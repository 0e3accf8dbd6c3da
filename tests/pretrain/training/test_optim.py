"""The optimizer, and the learning rate as a function of the step."""

from typing import Any

import pytest
import torch
from torch import nn

from pretrain.config import TrainConfig
from pretrain.training.optim import build_optimizer, learning_rate


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0.1), (29, 0.1), (30, 0.09), (59, 0.09), (60, 0.081)]
)
def test_paper_a_decays_by_ten_percent_every_thirty_epochs(epoch: int, expected: float) -> None:
    config = TrainConfig(arch="resnet18")
    assert learning_rate(config, epoch, 0, 10) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epoch", "step", "expected"),
    [
        (0, 0, 0.05),  # a quarter of the way up after one of four warm-up steps
        (1, 1, 0.2),
        (2, 0, 0.2),
        (6, 0, 0.1),  # half way down
        (9, 1, 0.2 * 0.5 * (1 - 0.98078528)),  # cos(15/16 pi)
    ],
)
def test_warm_up_and_cosine(epoch: int, step: int, expected: float) -> None:
    config = TrainConfig(arch="resnet18", lr=0.2, lr_schedule="cosine", warmup_epochs=2, epochs=10)
    assert learning_rate(config, epoch, step, 2) == pytest.approx(expected, rel=1e-6)


def test_a_constant_rate_stays_after_the_warm_up() -> None:
    config = TrainConfig(arch="resnet18", lr=1e-4, lr_schedule="constant", warmup_epochs=1)
    rates = [learning_rate(config, epoch, 0, 2) for epoch in (0, 1, 299)]
    assert rates == pytest.approx([0.5e-4, 1e-4, 1e-4])


def test_the_rate_scales_with_the_batch_if_configured() -> None:
    config = TrainConfig(arch="resnet18", lr=0.1, lr_reference_batch_size=256, batch_size=1024)
    assert learning_rate(config, 0, 0, 10) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        # One step from weight 1 with gradient 3, rate 0.1, decay 0.01.
        ("sgd", 1 - 0.1 * (3 + 0.01)),
        ("adam", 1 - 0.1),  # the decay is part of the gradient, whose size drops out
        ("adamw", 1 - 0.1 * 0.01 - 0.1),
    ],
)
def test_each_optimizer_takes_its_step(optimizer: Any, expected: float) -> None:
    model = _linear()
    config = TrainConfig(arch="resnet18", lr=0.1, weight_decay=0.01, optimizer=optimizer)
    _step(model, config)
    assert model.weight.item() == pytest.approx(expected, abs=1e-6)


def test_norms_and_biases_can_be_left_out_of_the_decay() -> None:
    model = _linear()
    config = TrainConfig(
        arch="resnet18", lr=0.1, weight_decay=0.01, decay_norm_and_bias=False, momentum=0.0
    )
    _step(model, config)
    assert model.weight.item() == pytest.approx(1 - 0.1 * (3 + 0.01))
    assert model.bias.item() == pytest.approx(1 - 0.1 * 3)


def _linear() -> nn.Linear:
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(1)
        model.bias.fill_(1)
    return model


def _step(model: nn.Linear, config: TrainConfig) -> None:
    optimizer = build_optimizer(model, config)
    (model(torch.ones(1, 1)) * 3).sum().backward()
    optimizer.step()
