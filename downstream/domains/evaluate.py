"""Score an adapted network on whole images at their native size.

The mIoU of a domain comes from one confusion matrix over all its images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from downstream.domains.prepare import PreparedImage
from downstream.domains.study import DomainStudy
from downstream.network.segmenter import Segmenter
from downstream.scoring.metrics import Scores, confusion, score

Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """The prediction and score of an image."""

    name: str
    predicted: npt.NDArray[np.uint8]  # (H, W) class indices at native size
    fraction: tuple[float, ...]  # per class, of the prediction
    confusion: torch.Tensor | None  # [true class][predicted class]; None without a label


@torch.no_grad()
def predict_image(
    segmenter: Segmenter, study: DomainStudy, image: PreparedImage, batch_size: int
) -> Probabilities:
    """Class probabilities `(C, H, W)` of a whole image at its native size.

    Tiles are predicted at the working scale, as in training; then probabilities, not logits or
    classes, are resized (paper B does not say at which size it scores).
    """
    segmenter.model.eval()
    plan = study.plan(*image.pixels.shape[:2])
    tiles = torch.from_numpy(plan.extract(image.pixels)).permute(0, 3, 1, 2)
    maps = [
        plan.centre(segmenter.logits(part).float().softmax(1)).cpu().numpy()
        for part in torch.split(tiles, batch_size)
    ]
    whole = torch.from_numpy(plan.stitch(np.concatenate(maps)))
    if tuple(whole.shape[1:]) == image.native_shape:
        return np.asarray(whole)
    resized = F.interpolate(whole[None], image.native_shape, mode="bilinear", antialias=True)
    return np.asarray(resized[0])


def score_images(
    segmenter: Segmenter, study: DomainStudy, images: Sequence[PreparedImage], batch_size: int
) -> tuple[ScoredImage, ...]:
    """Predict and score each image."""
    scored = []
    for image in images:
        predicted = predict_image(segmenter, study, image, batch_size).argmax(0).astype(np.uint8)
        scored.append(score_image(image, predicted, len(study.classes)))
    return tuple(scored)


def score_image(
    image: PreparedImage, predicted: npt.NDArray[np.uint8], classes: int
) -> ScoredImage:
    """Score class indices `(H, W)` at the image's native size."""
    counts = np.bincount(predicted.ravel(), minlength=classes)
    matrix = None
    if image.native_mask is not None:
        truth = torch.from_numpy(image.native_mask.astype(np.int64))
        matrix = confusion(torch.from_numpy(predicted.astype(np.int64)), truth, classes)
    return ScoredImage(image.name, predicted, tuple((counts / predicted.size).tolist()), matrix)


def total_confusion(images: Sequence[ScoredImage]) -> torch.Tensor | None:
    """The confusion matrix of all labelled images; None without any."""
    found = [image.confusion for image in images if image.confusion is not None]
    return torch.stack(found).sum(0) if found else None


def domain_results(images: Sequence[ScoredImage], names: Sequence[str]) -> dict[str, Any]:
    """The scores of a domain for `results.json`; None where labels are needed but missing."""
    fractions = np.average(
        [image.fraction for image in images],
        axis=0,
        weights=[image.predicted.size for image in images],
    )
    return _scores(total_confusion(images), fractions.tolist(), names) | {
        "images": [
            {"name": image.name} | _scores(image.confusion, image.fraction, names)
            for image in images
        ]
    }


def _scores(
    matrix: torch.Tensor | None, fractions: Sequence[float], names: Sequence[str]
) -> dict[str, Any]:
    def per_class(values: Sequence[float]) -> dict[str, float]:
        return dict(zip(names, values, strict=True))

    if matrix is None:
        unknown: dict[str, Any] = dict.fromkeys(
            ("miou", "micro_iou", "iou", "phase_fraction_true", "confusion")
        )
        return unknown | {"phase_fraction": per_class(fractions)}
    scores: Scores = score(matrix)
    truth = (matrix.sum(1) / matrix.sum()).tolist()
    return {
        "miou": scores.miou,
        "micro_iou": scores.micro_iou,
        "iou": per_class(scores.iou),
        "phase_fraction": per_class(fractions),
        "phase_fraction_true": per_class(truth),
        "confusion": matrix.tolist(),
    }
