"""Classification scores, worked out by hand."""

import pytest
import torch

from pretrain.training.metrics import Counts, Scores, class_accuracy

LOGITS = torch.tensor(
    [[9.0, 0, 0, 0, 0, 0], [9.0, 0, 0, 0, 0, -1], [0, 0, 9.0, 0, 0, 0], [5.0, 4, 3, 2, 1, 0]]
)
LABELS = torch.tensor([0, 5, 2, 0])


def test_scores_by_hand() -> None:
    counts = Counts(6, torch.device("cpu"))
    counts.add(LOGITS[:2], LABELS[:2])
    counts.add(LOGITS[2:], LABELS[2:])
    scores = counts.scores()
    assert scores.top1 == 3 / 4
    assert scores.top5 == 3 / 4  # class 5 is the last in the second row
    assert scores.balanced_accuracy == pytest.approx((1 + 1 + 0) / 3)  # classes 0, 2 and 5 occur
    assert scores.dominant_share == 3 / 4
    assert scores.confusion[5][0] == 1
    expected = torch.nn.functional.cross_entropy(LOGITS, LABELS).item()
    assert scores.loss == pytest.approx(expected, rel=1e-6)


def of(*confusion: tuple[int, ...]) -> Scores:
    counts = Counts(len(confusion), torch.device("cpu"))
    for label, row in enumerate(confusion):
        for answer, number in enumerate(row):
            logits = torch.eye(len(confusion))[answer].expand(number, -1)
            counts.add(logits, torch.full((number,), label))
    return counts.scores()


def test_two_classes_need_more_than_chance() -> None:
    assert of((7, 3), (3, 7)).converged
    assert not of((6, 4), (4, 6)).converged
    assert not of((10, 0), (10, 0)).converged  # one class only


def test_three_times_chance_is_required_from_seven_classes_on() -> None:
    def diagonal(hits: int, classes: int) -> Scores:
        rows = [[0] * classes for _ in range(classes)]
        for label, row in enumerate(rows):
            row[label], row[(label + 1) % classes] = hits, 100 - hits
        return of(*map(tuple, rows))

    for classes, least in ((7, 43), (10, 30), (20, 15)):
        assert diagonal(least, classes).converged
        assert not diagonal(least - 1, classes).converged


def test_classes_without_validation_images_do_not_count() -> None:
    rows = [[0] * 12 for _ in range(12)]
    rows[0][0], rows[0][1], rows[1][0], rows[1][1] = 6, 4, 4, 6  # a coin, between the two there are
    assert not of(*map(tuple, rows)).converged
    rows[0][0], rows[0][1], rows[1][0], rows[1][1] = 9, 1, 1, 9
    scores = of(*map(tuple, rows))
    assert scores.converged
    assert class_accuracy(scores.confusion) == (0.9, 0.9) + (None,) * 10


def test_predicting_the_class_of_nearly_all_images_is_allowed() -> None:
    assert of((190, 2), (2, 6)).converged  # 96 % of the answers, and of the images, are one class
    assert not of((190, 2), (6, 2)).converged  # that alone does not do


def test_a_loss_that_is_not_finite_has_not_converged() -> None:
    counts = Counts(2, torch.device("cpu"))
    counts.add(torch.full((2, 2), torch.nan), torch.zeros(2, dtype=torch.int64))
    assert not counts.scores().converged
