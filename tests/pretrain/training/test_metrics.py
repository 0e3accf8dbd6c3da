"""Classification scores, by hand."""

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
    wanted = torch.nn.functional.cross_entropy(LOGITS, LABELS).item()
    assert scores.loss == pytest.approx(wanted, rel=1e-6)


def test_guessing_and_answering_one_class_do_not_count_as_converged() -> None:
    good, one_class, chance = (Counts(10, torch.device("cpu")) for _ in range(3))
    labels = torch.arange(10).repeat(10)
    good.add(torch.nn.functional.one_hot(labels, 10).float(), labels)
    one_class.add(torch.eye(10)[torch.zeros(100, dtype=torch.long)], labels)
    chance.add(torch.eye(10)[torch.arange(10).repeat_interleave(10)], labels)
    assert good.scores().converged
    assert not one_class.scores().converged
    assert not chance.scores().converged


def of(*confusion: tuple[int, ...]) -> Scores:
    counts = Counts(len(confusion), torch.device("cpu"))
    for label, row in enumerate(confusion):
        for answer, number in enumerate(row):
            logits = torch.eye(len(confusion))[answer].expand(number, -1)
            counts.add(logits, torch.full((number,), label))
    return counts.scores()


def test_two_classes_need_no_perfection_but_more_than_luck() -> None:
    assert of((7, 3), (3, 7)).converged
    assert not of((6, 4), (4, 6)).converged


def test_thrice_chance_is_asked_from_seven_classes_on() -> None:
    def diagonal(hits: int, classes: int) -> Scores:
        rows = [[0] * classes for _ in range(classes)]
        for label, row in enumerate(rows):
            row[label], row[(label + 1) % classes] = hits, 100 - hits
        return of(*map(tuple, rows))

    for classes, least in ((7, 43), (10, 30), (20, 15)):
        assert diagonal(least, classes).converged
        assert not diagonal(least - 1, classes).converged


def test_classes_that_validation_lacks_count_neither_way() -> None:
    rows = [[0] * 12 for _ in range(12)]
    rows[0][0], rows[0][1], rows[1][0], rows[1][1] = 6, 4, 4, 6  # a coin, between the two there are
    assert not of(*map(tuple, rows)).converged
    rows[0][0], rows[0][1], rows[1][0], rows[1][1] = 9, 1, 1, 9
    scores = of(*map(tuple, rows))
    assert scores.converged
    assert class_accuracy(scores.confusion) == (0.9, 0.9) + (None,) * 10


def test_answering_the_class_that_nearly_all_are_is_no_fault() -> None:
    assert of((190, 2), (2, 6)).converged  # 96 % of the answers, and of the images, are one class
    assert not of((190, 2), (6, 2)).converged  # that alone does not do


def test_scores_that_are_no_numbers_have_not_converged() -> None:
    counts = Counts(2, torch.device("cpu"))
    counts.add(torch.full((2, 2), torch.nan), torch.zeros(2, dtype=torch.int64))
    assert not counts.scores().converged
