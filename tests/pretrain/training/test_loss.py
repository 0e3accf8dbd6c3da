"""The loss of a micro-batch."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.config import TrainConfig
from pretrain.loading.loader import Batch
from pretrain.training.loss import Objective, build_objective

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0]])
LABELS = torch.tensor([0, 2])
CPU = torch.device("cpu")


def objective(**settings: Any) -> Objective:
    config = TrainConfig(arch="resnet18", **settings)
    return build_objective(config, np.array([0, 0, 0, 1, 1, 2]), 3, CPU)


def test_paper_as_loss_is_the_cross_entropy() -> None:
    expected = -(LOGITS.log_softmax(1)[0, 0] + LOGITS.log_softmax(1)[1, 2])
    assert objective().loss(LOGITS, LABELS).item() == pytest.approx(expected.item())


def test_paper_bs_loss_is_a_sigmoid_per_class() -> None:
    p = LOGITS.sigmoid()
    hits = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
    expected = -(hits * p.log() + (1 - hits) * (1 - p).log()).mean(1).sum()
    assert objective(loss="bce").loss(LOGITS, LABELS).item() == pytest.approx(expected.item())


def test_smoothing_spreads_the_target_over_all_classes() -> None:
    smoothed = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    expected = -(smoothed * LOGITS.log_softmax(1)).sum()
    assert objective(label_smoothing=0.3).loss(LOGITS, LABELS).item() == pytest.approx(
        expected.item()
    )
    p = LOGITS.sigmoid()
    expected = -(smoothed * p.log() + (1 - smoothed) * (1 - p).log()).mean(1).sum()
    smooth_bce = objective(label_smoothing=0.3, loss="bce")
    assert smooth_bce.loss(LOGITS, LABELS).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_and_one_hot_targets_have_the_same_loss(loss: str, smoothing: float) -> None:
    each = objective(loss=loss, label_smoothing=smoothing, class_weight_power=1.0)
    one_hot = nn.functional.one_hot(LABELS, 3).float()
    assert each.loss(LOGITS, LABELS).item() == pytest.approx(each.loss(LOGITS, one_hot).item())


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_class_weights_scale_each_images_loss(loss: str) -> None:
    plain, weighted = objective(loss=loss), objective(loss=loss, class_weight_power=1.0)
    # Classes of 3, 2 and 1 images weigh 2/3, 1 and 2: mean 1 over the six images.
    for row, weight in ((0, 2 / 3), (1, 2.0)):
        one = slice(row, row + 1)
        expected = weight * plain.loss(LOGITS[one], LABELS[one]).item()
        assert weighted.loss(LOGITS[one], LABELS[one]).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_the_losses_of_micro_batches_add_up(loss: str) -> None:
    each = objective(loss=loss)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3))
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])

    def part(rows: slice) -> float:
        batch = Batch(images[rows], labels[rows], np.arange(4)[rows])
        return each(model, batch, 0).item()

    assert part(slice(0, 4)) == pytest.approx(part(slice(0, 2)) + part(slice(2, 4)), rel=1e-5)
