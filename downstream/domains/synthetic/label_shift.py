"""Choose images by phase fraction for paper B's label-shift experiment (section 4.3). No torch.

Two unlabelled training sets of a target with different mean fractions, and a common test set half
way between them, so that two adaptations differ only in the fraction of their training images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from micrograph.cli import UserError


@dataclass(frozen=True, slots=True)
class Chosen:
    """Chosen image files and their mean fraction."""

    names: tuple[str, ...]
    mean: float


@dataclass(frozen=True, slots=True)
class LabelShift:
    """The three sets; the training sets are disjoint."""

    high: Chosen
    low: Chosen
    test: Chosen


def choose_sets(
    train: Mapping[str, float],
    test: Mapping[str, float],
    *,
    low: float,
    high: float,
    images: int,
    tests: int,
) -> LabelShift:
    """Choose `images` training images with a mean near `low`, as many near `high`, `tests` between.

    `train` and `test` map files to fractions; chosen training files are excluded from the test set.
    Raises `UserError` if there are too few images, or if the training sets would overlap because
    the fractions are too similar.
    """
    if not low < high:
        raise UserError(f"low must be below high, not {low} and {high}")
    if len(train) < 2 * images:
        raise UserError(f"2 x {images} training images are needed, but there are {len(train)}")
    few, many = (nearest_mean(train, images, mean) for mean in (low, high))
    shared = set(few.names) & set(many.names)
    if shared:
        span = f"{min(train.values()):.0%} to {max(train.values()):.0%}"
        raise UserError(
            f"means of {low:.0%} and {high:.0%} would share {len(shared)} of {images} images: "
            f"their fractions span {span}; use fewer images or more different means"
        )
    unseen = {name: test[name] for name in test.keys() - {*few.names, *many.names}}
    if len(unseen) < tests:
        raise UserError(
            f"{tests} labelled test images are needed, but there are {len(unseen)} that are not "
            "used for training"
        )
    return LabelShift(many, few, nearest_mean(unseen, tests, (few.mean + many.mean) / 2))


def nearest_mean(fractions: Mapping[str, float], count: int, mean: float) -> Chosen:
    """The `count` consecutive images, sorted by fraction, with the mean nearest to `mean`."""
    names: Sequence[str] = sorted(fractions, key=lambda name: (fractions[name], name))
    values = np.array([fractions[name] for name in names])
    sums = np.concatenate(([0.0], np.cumsum(values)))
    means = (sums[count:] - sums[:-count]) / count
    start = int(np.abs(means - mean).argmin())
    return Chosen(tuple(names[start : start + count]), float(means[start]))
