"""The learning rate as a function of the step."""

import pytest

from pretrain.config import TrainConfig
from pretrain.optim import learning_rate


@pytest.mark.parametrize(
    ("epoch", "wanted"), [(0, 0.1), (29, 0.1), (30, 0.09), (59, 0.09), (60, 0.081)]
)
def test_paper_a_decays_by_ten_percent_every_thirty_epochs(epoch: int, wanted: float) -> None:
    config = TrainConfig(arch="resnet18")
    assert learning_rate(config, epoch, 0, 10) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("epoch", "step", "wanted"),
    [
        (0, 0, 0.05),  # a quarter of the way up after one of four warm-up steps
        (1, 1, 0.2),
        (2, 0, 0.2),
        (6, 0, 0.1),  # half way down
        (9, 1, 0.2 * 0.5 * (1 - 0.98078528)),  # cos(15/16 pi)
    ],
)
def test_warm_up_and_cosine(epoch: int, step: int, wanted: float) -> None:
    config = TrainConfig(arch="resnet18", lr=0.2, lr_schedule="cosine", warmup_epochs=2, epochs=10)
    assert learning_rate(config, epoch, step, 2) == pytest.approx(wanted, rel=1e-6)
