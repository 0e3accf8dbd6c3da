"""Segmentation metrics, all from one confusion matrix. The only place where they are computed."""

from dataclasses import dataclass

import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationScores:
    """How well masks agree with the labels; shares in [0, 1]."""

    iou_micro: float  # paper A's: intersections and unions summed over classes, then divided
    miou: float  # mean over the classes that occur
    iou_per_class: tuple[float, ...]  # nan for a class in neither prediction nor label
    pixel_accuracy: float


class PixelCounts:
    """The confusion matrix of all pixels seen: [true class][predicted class]."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)

    def add(self, predicted: torch.Tensor, target: torch.Tensor) -> None:
        """Count masks of class indices, both of the same shape."""
        self.confusion += multiclass_confusion_matrix(
            predicted.flatten(), target.flatten(), self.classes
        ).cpu()

    def scores(self) -> SegmentationScores:
        """The scores of all that was counted."""
        matrix = self.confusion.double()
        hits = matrix.diagonal()
        unions = matrix.sum(0) + matrix.sum(1) - hits
        ious = hits / unions  # 0 / 0 gives nan, for a class that does not occur
        return SegmentationScores(
            iou_micro=float(hits.sum() / unions.sum()),
            miou=float(ious.nanmean()),
            iou_per_class=tuple(ious.tolist()),
            pixel_accuracy=float(hits.sum() / matrix.sum()),
        )
