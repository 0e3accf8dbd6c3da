"""Chooses images by phase fraction, for paper B's label-shift experiment (section 4.3). No torch.

Two unlabelled training sets of one target whose mean fractions differ, and one common test set half
way between them: what then differs between two adaptations is the training fraction alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shards.cli import UserError


@dataclass(frozen=True, slots=True)
class Chosen:
    """Files of images, and the mean of their fractions."""

    names: tuple[str, ...]
    mean: float


@dataclass(frozen=True, slots=True)
class LabelShift:
    """The three sets; no training image is in both."""

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
    """`images` to train on with a mean near `low`, as many others near `high`, `tests` half way.

    `train` and `test` map files to fractions; no chosen training file is tested on. Raises
    `UserError` where there are too few images, or where their fractions lie so close that both
    training sets would share some.
    """
    if not low < high:
        raise UserError(f"low must be below high, not {low} and {high}")
    if len(train) < 2 * images:
        raise UserError(f"2 x {images} training images are wanted, and there are {len(train)}")
    few, many = (nearest_mean(train, images, wanted) for wanted in (low, high))
    shared = set(few.names) & set(many.names)
    if shared:
        span = f"{min(train.values()):.0%} to {max(train.values()):.0%}"
        raise UserError(
            f"means of {low:.0%} and {high:.0%} would share {len(shared)} of {images} images: "
            f"their fractions span {span}; take fewer images, or fractions that lie further apart"
        )
    unseen = {name: test[name] for name in test.keys() - {*few.names, *many.names}}
    if len(unseen) < tests:
        raise UserError(
            f"{tests} labelled test images are wanted, and there are {len(unseen)} beside those "
            "that are trained on"
        )
    return LabelShift(many, few, nearest_mean(unseen, tests, (few.mean + many.mean) / 2))


def nearest_mean(fractions: Mapping[str, float], count: int, wanted: float) -> Chosen:
    """The run of `count` images, in order of their fraction, whose mean is nearest to `wanted`."""
    names: Sequence[str] = sorted(fractions, key=lambda name: (fractions[name], name))
    values = np.array([fractions[name] for name in names])
    sums = np.concatenate(([0.0], np.cumsum(values)))
    means = (sums[count:] - sums[:-count]) / count
    start = int(np.abs(means - wanted).argmin())
    return Chosen(tuple(names[start : start + count]), float(means[start]))
