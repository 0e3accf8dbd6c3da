"""Segmentation metrics: from one confusion matrix per image, and boundary F1 from the masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torchmetrics.functional.classification import multiclass_confusion_matrix

from downstream.labels.classes import MicroIouClasses
from downstream.labels.masks import Mask


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Agreement of predicted masks with labels; values in [0, 1], nan if undefined."""

    # Paper A's IoU: intersections and unions are summed over the classes, then divided. With argmax
    # masks and all classes it equals accuracy / (2 - accuracy). The paper's EBC networks have one
    # channel, so there it is the IoU of the foreground.
    micro_iou: float
    miou: float  # mean over the classes in prediction or label
    iou: tuple[float, ...]  # per class; nan if in neither prediction nor label
    pixel_accuracy: float
    phase_fraction: tuple[float, ...]  # per class, of the prediction
    phase_fraction_error: tuple[float, ...]  # per class, prediction minus label


@dataclass(frozen=True, kw_only=True, slots=True)
class Boundaries:
    """Agreement of boundaries within a tolerance; nan if neither mask has the boundary."""

    boundary_f1: float  # mean over the classes with a boundary
    f1: tuple[float, ...]  # per class


def confusion(predicted: torch.Tensor, target: torch.Tensor, classes: int) -> torch.Tensor:
    """Pixel counts by [true class][predicted class], int64 `(C, C)`, of masks of class indices."""
    matrix: torch.Tensor = multiclass_confusion_matrix(
        predicted.flatten(), target.flatten(), classes
    )
    return matrix.cpu()


def score(matrix: torch.Tensor, micro_iou_classes: MicroIouClasses = "all") -> Scores:
    """The scores of a confusion matrix, of one image or summed over several."""
    counts = matrix.double()
    hits = counts.diagonal()
    unions = counts.sum(0) + counts.sum(1) - hits
    ious = hits / unions  # nan (0 / 0) for a class that does not occur
    first = 1 if micro_iou_classes == "foreground" else 0
    union = float(unions[first:].sum())
    pixels = counts.sum()
    return Scores(
        # No foreground in either is a perfect score (as with the epsilon of the public code).
        micro_iou=float(hits[first:].sum()) / union if union else 1.0,
        miou=float(ious.nanmean()),
        iou=tuple(ious.tolist()),
        pixel_accuracy=float(hits.sum() / pixels),
        phase_fraction=tuple((counts.sum(0) / pixels).tolist()),
        phase_fraction_error=tuple(((counts.sum(0) - counts.sum(1)) / pixels).tolist()),
    )


def constant_score(matrix: torch.Tensor, micro_iou_classes: MicroIouClasses) -> tuple[int, float]:
    """The best constant prediction: its class and its micro IoU.

    Uses only the row sums of the confusion matrix, so that of any prediction will do.
    """
    truth = matrix.sum(1)
    best, best_score = 0, -1.0
    for index in range(len(truth)):
        constant = torch.zeros_like(matrix)
        constant[:, index] = truth
        value = score(constant, micro_iou_classes).micro_iou
        if value > best_score:
            best, best_score = index, value
    return best, best_score


def boundaries(predicted: Mask, target: Mask, classes: int, tolerance: float) -> Boundaries:
    """Boundary F1 per class (Csurka et al. 2013, doi:10.5244/C.27.32), masks `(H, W)`.

    The harmonic mean of the fractions of boundary pixels of one mask with a boundary pixel of the
    other within `tolerance` pixels (Euclidean). The border of the image is not a boundary.
    """
    f1 = tuple(
        _boundary_f1(_edge(predicted == index), _edge(target == index), tolerance)
        for index in range(classes)
    )
    return Boundaries(boundary_f1=mean_defined(f1), f1=f1)


def mean_defined(values: Sequence[float]) -> float:
    """The mean of the values that are not nan; nan if all are."""
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
