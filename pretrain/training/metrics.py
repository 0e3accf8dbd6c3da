"""Classification metrics, all from one confusion matrix."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

# Paper A published a VGG-11 at 1.4 % of 54 classes. A run that learns is well above 1/classes.
CHANCE_FACTOR = 3
# With fewer than seven classes, three times chance is too strict; there, use this fraction of the
# way from chance to 1 (equal at seven classes).
CHANCE_WAY = 1 / 3
DOMINANT_SHARE = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """How well a model classifies a split."""

    loss: float  # mean cross entropy, without label smoothing
    top1: float  # fractions in [0, 1]
    top5: float
    balanced_accuracy: float  # mean over classes of their recall
    dominant_share: float  # fraction of predictions that are the most predicted class
    confusion: tuple[tuple[int, ...], ...]  # [true class][predicted class]

    @property
    def converged(self) -> bool:
        """Whether the model is clearly better than chance."""
        if not math.isfinite(self.loss):
            return False
        members = [sum(row) for row in self.confusion]
        # A constant prediction has a balanced accuracy of 1 / (classes that occur).
        occurring = max(2, sum(count > 0 for count in members))
        chance = 1 / occurring
        required = min(CHANCE_FACTOR / occurring, chance + CHANCE_WAY * (1 - chance))
        # If nearly all images are of one class, predicting it nearly always is fine.
        one_sided = self.dominant_share > DOMINANT_SHARE >= max(members) / max(1, sum(members))
        return self.balanced_accuracy >= required and not one_sided

    def scalars(self) -> dict[str, float]:
        """The values for logs and cards."""
        return {
            "loss": self.loss,
            "top1": self.top1,
            "top5": self.top5,
            "balanced_accuracy": self.balanced_accuracy,
        }


def class_accuracy(confusion: Sequence[Sequence[int]]) -> tuple[float | None, ...]:
    """The recall of each class; None if the split has no image of it.

    `confusion[true class][predicted class]` counts images.
    """
    return tuple(row[i] / sum(row) if any(row) else None for i, row in enumerate(confusion))


class Counts:
    """The sums that scores are computed from; additive over batches and processes."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes = classes
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        self.top5 = torch.zeros((), dtype=torch.int64, device=device)
        self.loss = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch: logits `(N, classes)`, labels `(N,)` int64."""
        logits = logits.float()
        self.confusion += multiclass_confusion_matrix(logits.argmax(1), labels, self.classes)
        best = logits.topk(min(5, self.classes), dim=1).indices
        self.top5 += (best == labels[:, None]).any(1).sum()
        self.loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").double()

    def scores(self) -> Scores:
        """The scores of all samples counted."""
        total = max(1, int(self.confusion.sum()))
        hits = self.confusion.diagonal().double()
        members = self.confusion.sum(1)
        recalls = hits[members > 0] / members[members > 0]
        return Scores(
            loss=float(self.loss) / total,
            top1=float(hits.sum()) / total,
            top5=int(self.top5) / total,
            balanced_accuracy=float(recalls.mean()) if len(recalls) else 0.0,
            dominant_share=int(self.confusion.sum(0).max()) / total,
            confusion=tuple(tuple(row) for row in self.confusion.tolist()),
        )
