"""Which image validates, and in which order all lie: pure functions of keys, groups and a seed.

No group ever spans the split. A class to which groups leave too few validation images trains only.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from shards.components import components

SplitRule = Literal["per_class", "share", "folds", "source", "file"]

TRAIN, VAL, LEFT_OUT = 0, 1, 2
# Of its target: a class with less in validation trains only, since its score would say little.
MIN_TARGET_SHARE = 0.5

_Ints = npt.NDArray[np.int64]
Sides = npt.NDArray[np.int8]  # TRAIN, VAL or LEFT_OUT per image


@dataclass(frozen=True, slots=True)
class Population:
    """All images that are to be split. `groups` are any numbers; equal ones stay together."""

    keys: Sequence[str]
    labels: _Ints
    groups: _Ints
    classes: int

    def class_sizes(self) -> _Ints:
        return np.bincount(self.labels, minlength=self.classes)


def draw_validation(population: Population, targets: _Ints, seed: int) -> Sides:
    """Draw whole groups into validation, at most `targets[label]` images of each class.

    Groups come in the order of their first image in `shuffled`, so what one class holds decides
    nothing for another (but through groups that hold both), and larger targets keep what they had.
    """
    sides = np.full(len(population.keys), TRAIN, np.int8)
    left = targets.copy()
    for members in _groups_in_order(population, seed):
        counts = np.bincount(population.labels[members], minlength=population.classes)
        if (counts <= left).all():
            sides[members] = VAL
            left -= counts
    return sides


def training_only(population: Population, sides: Sides, targets: _Ints) -> tuple[int, ...]:
    """The classes whose validation images are too few beside their target, 0 included."""
    drawn = np.bincount(population.labels[sides == VAL], minlength=population.classes)
    short = (targets > 0) & (drawn < np.maximum(1, MIN_TARGET_SHARE * targets))
    return tuple(np.flatnonzero(short).tolist())


def withdraw(population: Population, sides: Sides, labels: Sequence[int]) -> Sides:
    """Put these classes back into training.

    Groups that validate with another class as well stay: of a class so short, a few images then
    validate all the same.
    """
    others = ~np.isin(population.labels, labels)
    mixed = np.isin(population.groups, population.groups[others & (sides == VAL)])
    back = np.isin(population.labels, labels) & (sides != TRAIN) & ~mixed
    return np.where(back, np.int8(TRAIN), sides)


def validation_targets(sizes: _Ints, per_class: int, max_share: float) -> _Ints:
    """`per_class` images of each class (paper A: 50), at most a share, but one if it has two."""
    return np.array([validation_count(int(size), per_class, max_share) for size in sizes], np.int64)


def validation_count(samples: int, per_class: int, max_share: float) -> int:
    """How many of a class's samples validate."""
    if samples < 2 or per_class == 0:
        return 0
    return max(1, min(per_class, int(samples * max_share)))


def share_targets(sizes: _Ints, share: float) -> _Ints:
    """A share of each class (paper B: 3,750 of 18,750), but one if it has two."""
    return np.where(sizes < 2, 0, np.maximum(1, np.rint(sizes * share))).astype(np.int64)


def draw_folds(population: Population, folds: int, seed: int) -> _Ints:
    """The fold of each image: whole groups, large ones first, each where its classes are fewest."""
    of_class = np.maximum(population.class_sizes(), 1)
    filled = np.zeros((folds, population.classes))
    fold = np.empty(len(population.keys), np.int64)
    for members in sorted(_groups_in_order(population, seed), key=len, reverse=True):
        counts = np.bincount(population.labels[members], minlength=population.classes) / of_class
        present = counts > 0
        crowding = [(row[present].sum(), row.sum(), n) for n, row in enumerate(filled)]
        fold[members] = chosen = min(crowding)[2]
        filled[chosen] += counts
    return fold


def hold_out(population: Population, held: npt.NDArray[np.bool_]) -> Sides:
    """Validation is `held`; images outside it that share a group with it are left out."""
    touched = np.isin(population.groups, population.groups[held])
    sides = np.where(touched, np.int8(LEFT_OUT), np.int8(TRAIN))
    return np.where(held, np.int8(VAL), sides)


def apply_saved(keys: Sequence[str], saved: Mapping[str, str], bonds: _Ints) -> Sides:
    """The split of an earlier set for the keys that it knows; `bonds` (M, 2) are bound positions.

    A new image follows what it is bound to into validation. What trained then and is now bound to a
    validating image, directly or through new ones, is left out, and what was left out stays so.
    """
    said = np.array([saved.get(key, "") for key in keys])
    new = said == ""
    # Only new images hand validation on: the pieces of a mosaic that was cut stay apart.
    linking = bonds[new[bonds].any(axis=1)]
    pieces = components(len(keys), linking[:, 0], linking[:, 1])
    reached = np.isin(pieces, pieces[said == "val"])
    reached[bonds[(said[bonds] == "val").any(axis=1)]] = True
    sides = np.where(reached & new, np.int8(VAL), np.int8(TRAIN))
    sides[(reached & (said == "train")) | (said == "left_out")] = LEFT_OUT
    sides[said == "val"] = VAL
    return sides


def shuffled(keys: Sequence[str], seed: int) -> _Ints:
    """Positions of `keys` in an order that depends on the keys and the seed alone.

    Not on their number or order: a corpus that grows keeps the order of what it had.
    """
    ranks = [hashlib.sha256(f"{seed}:{key}".encode()).digest() for key in keys]
    return np.array(sorted(range(len(keys)), key=ranks.__getitem__), dtype=np.int64)


def _groups_in_order(population: Population, seed: int) -> list[_Ints]:
    """The positions of each group's members, groups in the order of their first in `shuffled`."""
    order = shuffled(population.keys, seed)
    groups = population.groups[order]
    by_group = np.argsort(groups, kind="stable")  # members keep their order
    starts = np.flatnonzero(np.diff(groups[by_group], prepend=-1) != 0)
    members = np.split(by_group, starts[1:]) if len(by_group) else []
    return [order[part] for part in sorted(members, key=lambda part: int(part[0]))]
