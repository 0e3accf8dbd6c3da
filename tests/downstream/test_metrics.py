"""Segmentation scores and the loss, by hand."""

import math

import pytest
import torch

from downstream.losses import CrossEntropyDice
from downstream.metrics import PixelCounts


def test_scores_by_hand() -> None:
    counts = PixelCounts(3)
    target = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1]])
    predicted = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1]])
    counts.add(predicted[:1], target[:1])
    counts.add(predicted[1:], target[1:])
    scores = counts.scores()
    # class 0: 4 right, union 4 + 1 + 1; class 1: 2 right, union 2 + 1 + 1; class 2: nowhere
    assert scores.iou_per_class[:2] == pytest.approx((4 / 6, 2 / 4))
    assert math.isnan(scores.iou_per_class[2])
    assert scores.miou == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert scores.iou_micro == pytest.approx(6 / 10)
    assert scores.pixel_accuracy == pytest.approx(6 / 8)
    # For argmax masks the micro IoU follows from the accuracy: acc / (2 - acc).
    assert scores.iou_micro == pytest.approx(0.75 / (2 - 0.75))


def test_perfect_logits_have_a_loss_near_zero_and_wrong_ones_a_large_one() -> None:
    target = torch.arange(3).repeat(4).reshape(1, 3, 4)
    perfect = 50.0 * torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2)
    loss = CrossEntropyDice(0.7)
    assert loss(perfect, target).item() < 1e-3
    assert loss(-perfect, target).item() > 10
    assert loss(torch.zeros_like(perfect), target).item() == pytest.approx(
        0.7 * math.log(3) + 0.3 * (1 - 1 / 3), rel=1e-3
    )
