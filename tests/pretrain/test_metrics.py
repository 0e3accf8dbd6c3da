"""Classification scores, by hand."""

import pytest
import torch

from pretrain.metrics import Counts

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
