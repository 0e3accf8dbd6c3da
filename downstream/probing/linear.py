"""The linear probe: a pixel classifier on frozen features, cross-validated.

Alain and Bengio 2016 (arXiv 1610.01644). It takes seconds where fine-tuning takes minutes, but does
not see what fine-tuning would change: docs/measurements.md shows how far the two agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from downstream.labels.classes import MicroIouClasses
from downstream.labels.masks import Mask
from downstream.network.segmenter import default_device
from downstream.probing.candidates import Candidate, build_frozen
from downstream.probing.features import Features, Positions, hypercolumns
from downstream.probing.folds import FoldedSet
from downstream.scoring.metrics import Scores, confusion, score

TRAIN_PIXELS = 6_000  # from all images, the same number for each class
VAL_PIXELS = 20_000  # from all images, uniformly
STRENGTH = 1e-2  # scikit-learn's C: strong regularisation, as labels are few for the features
MAX_STEPS = 200


@dataclass(frozen=True, slots=True)
class Sample:
    """Pixels of one image, to train on and to score."""

    train: Positions  # (n, 2), row and column
    val: Positions


def draw_samples(data: FoldedSet, seed: int) -> list[Sample]:
    """Draw the pixels, which are the same for all candidates."""
    rng = np.random.default_rng(seed)
    count = len(data.items)
    return [
        Sample(
            _even_over_classes(item.mask, TRAIN_PIXELS // count, rng),
            _uniform(item.mask.shape, VAL_PIXELS // count, rng),
        )
        for item in data.items
    ]


def probe(
    candidate: Candidate,
    data: FoldedSet,
    samples: Sequence[Sample],
    micro_iou_classes: MicroIouClasses,
    seed: int,
) -> list[Scores]:
    """The scores of each fold. Raises `UserError` if the encoder cannot be used."""
    encoder = build_frozen(candidate, seed).to(default_device())
    train, val = [], []
    for item, sample in zip(data.items, samples, strict=True):
        both = np.concatenate([sample.train, sample.val])
        features = hypercolumns(encoder, candidate, item.pixels, both)
        train.append(features[: len(sample.train)])
        val.append(features[len(sample.train) :])
    labels = [_labels(item.mask, s.train) for item, s in zip(data.items, samples, strict=True)]
    truth = [_labels(item.mask, s.val) for item, s in zip(data.items, samples, strict=True)]
    scores = []
    for held in data.folds:
        kept = [number for number in range(len(data.items)) if number not in held]
        predicted = _classify(
            np.concatenate([train[i] for i in kept]),
            np.concatenate([labels[i] for i in kept]),
            np.concatenate([val[i] for i in held]),
        )
        target = torch.from_numpy(np.concatenate([truth[i] for i in held]))
        scores.append(score(confusion(predicted, target, len(data.classes)), micro_iou_classes))
    return scores


def _classify(features: Features, labels: npt.NDArray[np.int64], unseen: Features) -> torch.Tensor:
    """Predict the classes of `unseen` `(n, D)`; if `labels` has only one class, that one."""
    if len(np.unique(labels)) == 1:
        return torch.full((len(unseen),), int(labels[0]))
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=MAX_STEPS)
    model.fit(scaler.transform(features), labels)
    return torch.from_numpy(model.predict(scaler.transform(unseen)))


def _labels(mask: Mask, positions: Positions) -> npt.NDArray[np.int64]:
    return np.asarray(mask[positions[:, 0], positions[:, 1]], np.int64)


def _even_over_classes(mask: Mask, count: int, rng: np.random.Generator) -> Positions:
    """Draw pixels, the same number of each class in the mask if it has enough."""
    present = np.unique(mask)
    drawn = []
    for index in present:
        pixels = np.flatnonzero(mask == index)
        drawn.append(rng.choice(pixels, min(len(pixels), count // len(present)), replace=False))
    return np.stack(np.unravel_index(np.concatenate(drawn), mask.shape), 1)


def _uniform(shape: tuple[int, ...], count: int, rng: np.random.Generator) -> Positions:
    area = int(np.prod(shape))
    drawn = rng.choice(area, min(area, count), replace=False)
    return np.stack(np.unravel_index(drawn, shape), 1)
