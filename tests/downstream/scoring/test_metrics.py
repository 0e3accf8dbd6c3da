"""Segmentation scores and the loss, by hand."""

import math

import numpy as np
import pytest
import torch

from downstream.finetune.losses import CrossEntropyDice, class_weights
from downstream.finetune.results import Evaluation, collapse_of
from downstream.scoring.metrics import boundaries, confusion, constant_score, score
from downstream.scoring.overlays import agreement_map

TARGET = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1]])
PREDICTED = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1]])


def test_scores_by_hand() -> None:
    matrix = confusion(PREDICTED[:1], TARGET[:1], 3) + confusion(PREDICTED[1:], TARGET[1:], 3)
    assert matrix.tolist() == [[4, 1, 0], [1, 2, 0], [0, 0, 0]]
    scores = score(matrix)
    # class 0: 4 right, union 4 + 1 + 1; class 1: 2 right, union 2 + 1 + 1; class 2: nowhere
    assert scores.iou[:2] == pytest.approx((4 / 6, 2 / 4))
    assert math.isnan(scores.iou[2])
    assert scores.miou == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert scores.micro_iou == pytest.approx(6 / 10)
    assert scores.pixel_accuracy == pytest.approx(6 / 8)
    # For argmax masks the micro IoU follows from the accuracy: acc / (2 - acc).
    assert scores.micro_iou == pytest.approx(0.75 / (2 - 0.75))
    assert scores.phase_fraction == pytest.approx((5 / 8, 3 / 8, 0))
    assert scores.phase_fraction_error == pytest.approx((0, 0, 0))


def test_over_the_foreground_micro_iou_is_that_of_one_channel() -> None:
    matrix = torch.tensor([[90, 2], [3, 5]])
    assert score(matrix, "foreground").micro_iou == pytest.approx(5 / 10)
    assert score(matrix, "all").micro_iou == pytest.approx(95 / (95 + 2 * 5))
    assert score(matrix).phase_fraction_error == pytest.approx((0.01, -0.01))


def test_the_best_constant_answer() -> None:
    matrix = torch.tensor([[30, 40], [20, 10]])  # 70 of class 0, 30 of class 1
    assert constant_score(matrix, "all") == (0, pytest.approx(0.7 / (2 - 0.7)))
    assert constant_score(matrix, "foreground") == (1, pytest.approx(0.3))


def test_boundaries_agree_within_the_tolerance() -> None:
    target = np.zeros((40, 40), np.int64)
    target[10:30, 10:30] = 1
    shifted = np.roll(target, 2, axis=1)
    assert boundaries(target, target, 3, 0).f1[:2] == (1.0, 1.0)
    assert math.isnan(boundaries(target, target, 3, 0).f1[2])
    assert boundaries(shifted, target, 2, 2).boundary_f1 == 1.0
    # The square's ring has 76 pixels; of a shift by two, 18 + 18 of the ring's two rows remain.
    assert boundaries(shifted, target, 2, 0).f1[1] == pytest.approx(36 / 76)
    assert boundaries(np.zeros_like(target), target, 2, 5).f1 == (0.0, 0.0)


def test_agreement_in_the_colours_of_paper_a() -> None:
    picture = agreement_map(np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]]), 1)
    assert picture.tolist() == [[[255, 255, 255], [0, 255, 255], [255, 0, 255], [0, 0, 0]]]


def test_a_useless_network_is_reported() -> None:
    def why(matrix: list[list[int]], finished: str = "") -> str:
        total = torch.tensor(matrix)
        evaluation = Evaluation((), score(total), total, boundaries(np.eye(2), np.eye(2), 1, 0))
        return collapse_of(evaluation, ("matrix", "crack"), finished, "all")

    assert why([[90, 0], [10, 0]]) == "it predicts matrix everywhere"
    assert why([[80, 10], [5, 5]]).endswith("no better than matrix everywhere (81.8%)")
    assert why([[88, 2], [2, 8]]) == ""
    assert why([[88, 2], [2, 8]], "diverged: …") == "diverged: …"


def test_perfect_logits_have_a_loss_near_zero_and_wrong_ones_a_large_one() -> None:
    target = torch.arange(3).repeat(4).reshape(1, 3, 4)
    perfect = 50.0 * torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2)
    for weights in (None, torch.tensor([0.5, 1.0, 8.0])):
        loss = CrossEntropyDice(0.7, weights)
        assert loss(perfect, target).item() < 1e-3
        assert loss(-perfect, target).item() > 10
        # No opinion: ln 3 whatever the weights; dice 1 / 3 of each class.
        assert loss(torch.zeros_like(perfect), target).item() == pytest.approx(
            0.7 * math.log(3) + 0.3 * (1 - 1 / 3), rel=1e-3
        )


def test_balanced_weights_give_every_class_the_same_total() -> None:
    mask = np.zeros((10, 10), np.int64)
    mask[0, :5] = 1
    assert class_weights([mask], 3, "none") == (1, 1, 1)
    assert class_weights([mask], 3, "inverse_frequency") == pytest.approx((100 / 190, 10, 0))
