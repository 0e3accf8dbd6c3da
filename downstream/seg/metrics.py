"""Segmentation scores, all from one confusion matrix per image; boundaries from the masks.

The only place where they are computed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torchmetrics.functional.classification import multiclass_confusion_matrix

from downstream.seg.classes import MicroIouClasses
from downstream.seg.masks import Mask


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """How well predicted masks agree with labels; shares in [0, 1], nan where undefined."""

    # Paper A's IoU: intersections and unions summed over the classes, then divided. With argmax
    # masks and all classes it is accuracy / (2 - accuracy). The paper's EBC networks have one
    # channel, so there it is the foreground's IoU (`micro_iou_classes: foreground`).
    micro_iou: float
    miou: float  # mean over the classes that occur in prediction or label
    iou: tuple[float, ...]  # per class; nan for one in neither prediction nor label
    pixel_accuracy: float
    phase_fraction: tuple[float, ...]  # per class, of the prediction
    phase_fraction_error: tuple[float, ...]  # per class, prediction minus label


@dataclass(frozen=True, kw_only=True, slots=True)
class Boundaries:
    """How well boundaries agree within a tolerance; nan where neither mask has the boundary."""

    boundary_f1: float  # mean over the classes that have one
    f1: tuple[float, ...]  # per class


def confusion(predicted: torch.Tensor, target: torch.Tensor, classes: int) -> torch.Tensor:
    """Pixels by [true class][predicted class], int64 `(C, C)`, of masks of class indices."""
    matrix: torch.Tensor = multiclass_confusion_matrix(
        predicted.flatten(), target.flatten(), classes
    )
    return matrix.cpu()


def score(matrix: torch.Tensor, over: MicroIouClasses = "all") -> Scores:
    """The scores of one image's confusion matrix, or of the sum of several."""
    counts = matrix.double()
    hits = counts.diagonal()
    unions = counts.sum(0) + counts.sum(1) - hits
    ious = hits / unions  # 0 / 0 gives nan, for a class that does not occur
    first = 1 if over == "foreground" else 0
    union = float(unions[first:].sum())
    pixels = counts.sum()
    return Scores(
        # No foreground in either: nothing was wrong (the public code's epsilon says the same).
        micro_iou=float(hits[first:].sum()) / union if union else 1.0,
        miou=float(ious.nanmean()),
        iou=tuple(ious.tolist()),
        pixel_accuracy=float(hits.sum() / pixels),
        phase_fraction=tuple((counts.sum(0) / pixels).tolist()),
        phase_fraction_error=tuple(((counts.sum(0) - counts.sum(1)) / pixels).tolist()),
    )


def constant_score(matrix: torch.Tensor, over: MicroIouClasses) -> tuple[int, float]:
    """The class that a constant answer does best with, and that answer's micro IoU.

    Takes any confusion matrix of the images; only its rows' sums count.
    """
    truth = matrix.sum(1)
    best, best_score = 0, -1.0
    for index in range(len(truth)):
        constant = torch.zeros_like(matrix)
        constant[:, index] = truth
        value = score(constant, over).micro_iou
        if value > best_score:
            best, best_score = index, value
    return best, best_score


def boundaries(predicted: Mask, target: Mask, classes: int, tolerance: float) -> Boundaries:
    """Boundary F1 per class (Csurka et al. 2013, doi:10.5244/C.27.32), masks `(H, W)`.

    The share of boundary pixels of one mask with a boundary pixel of the other within `tolerance`
    pixels (Euclidean), both ways, as a harmonic mean. The image's border is no boundary.
    """
    f1 = tuple(
        _boundary_f1(_edge(predicted == index), _edge(target == index), tolerance)
        for index in range(classes)
    )
    return Boundaries(boundary_f1=mean_defined(f1), f1=f1)


def mean_defined(values: Sequence[float]) -> float:
    """The mean of those that are not nan; nan when all are."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def _edge(region: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray(region & ~ndimage.binary_erosion(region, border_value=1))


def _boundary_f1(
    predicted: npt.NDArray[np.bool_], target: npt.NDArray[np.bool_], tolerance: float
) -> float:
    if not predicted.any() and not target.any():
        return math.nan
    if not predicted.any() or not target.any():
        return 0.0
    precision = (ndimage.distance_transform_edt(~target)[predicted] <= tolerance).mean()
    recall = (ndimage.distance_transform_edt(~predicted)[target] <= tolerance).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
