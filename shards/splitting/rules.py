"""Which images validate, and in which order: pure functions of keys, groups and a seed.

No group ever spans the split. A class whose groups leave too few validation images trains only.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.images.components import components
from shards.shard_format.schema import LEFT_OUT_SPLIT, SPLITS

SPLIT_NAMES = (*SPLITS, LEFT_OUT_SPLIT)
TRAIN, VAL, LEFT_OUT = range(3)  # positions in SPLIT_NAMES
_NEW = -1  # not in an earlier set
# Of its target: a class with less in validation trains only; its score would mean little.
MIN_TARGET_SHARE = 0.5

_Ints = npt.NDArray[np.int64]
Assignment = npt.NDArray[np.int8]  # TRAIN, VAL or LEFT_OUT per image


@dataclass(frozen=True, slots=True)
class Population:
    """The images to split. `groups` are any numbers; images of one group stay together."""

    keys: Sequence[str]
    labels: _Ints
    groups: _Ints
    classes: int

    def class_sizes(self) -> _Ints:
        return np.bincount(self.labels, minlength=self.classes)


def draw_validation(population: Population, targets: _Ints, seed: int) -> Assignment:
    """Draw whole groups into validation, at most `targets[label]` images of each class.

    Groups are drawn in the order of their first image in `shuffled`. So the images of one class do
    not affect another (unless a group holds both), and a larger target adds to a smaller one.
    """
    assignment = np.full(len(population.keys), TRAIN, np.int8)
    left = targets.copy()
    for members in _groups_in_order(population, seed):
        counts = np.bincount(population.labels[members], minlength=population.classes)
        if (counts <= left).all():
            assignment[members] = VAL
            left -= counts
    return assignment


def training_only(
    population: Population, assignment: Assignment, targets: _Ints
) -> tuple[int, ...]:
    """The classes with too few validation images for their target, or none."""
    drawn = np.bincount(population.labels[assignment == VAL], minlength=population.classes)
    short = (targets > 0) & (drawn < np.maximum(1, MIN_TARGET_SHARE * targets))
    return tuple(np.flatnonzero(short).tolist())


def return_to_train(
    population: Population, assignment: Assignment, labels: Sequence[int]
) -> Assignment:
    """Put the classes `labels` back into training, but for groups that hold others as well."""
    others = ~np.isin(population.labels, labels)
    mixed = np.isin(population.groups, population.groups[others & (assignment == VAL)])
    back = np.isin(population.labels, labels) & (assignment != TRAIN) & ~mixed
    return np.where(back, np.int8(TRAIN), assignment)


def validation_targets(sizes: _Ints, per_class: int, max_share: float) -> _Ints:
    """`per_class` images of each class (paper A: 50), at most a share, at least one of two."""
    return np.array([validation_count(int(size), per_class, max_share) for size in sizes], np.int64)


def validation_count(samples: int, per_class: int, max_share: float) -> int:
    """How many of a class's samples validate."""
    if samples < 2 or per_class == 0:
        return 0
    return max(1, min(per_class, int(samples * max_share)))


def share_targets(sizes: _Ints, share: float) -> _Ints:
    """A share of each class (paper B: 3,750 of 18,750), at least one if the class has two."""
    return np.where(sizes < 2, 0, np.maximum(1, np.rint(sizes * share))).astype(np.int64)


def draw_folds(population: Population, folds: int, seed: int) -> _Ints:
    """The fold of each image: whole groups, the largest first, where its classes are rarest."""
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


def hold_out(population: Population, held: npt.NDArray[np.bool_]) -> Assignment:
    """Validation is `held`; images outside it that share a group with it are left out."""
    touched = np.isin(population.groups, population.groups[held])
    assignment = np.where(touched, np.int8(LEFT_OUT), np.int8(TRAIN))
    return np.where(held, np.int8(VAL), assignment)


def apply_saved(keys: Sequence[str], saved: Mapping[str, int], edges: _Ints) -> Assignment:
    """Keep the split of an earlier set: `saved` maps its keys to TRAIN, VAL or LEFT_OUT.

    `edges` (M, 2) are pairs of positions that must not be separated. A new image follows a
    validating one into validation. A training image that is now connected to a validating one,
    directly or through new ones, is left out; what was left out stays so.
    """
    known = np.array([saved.get(key, _NEW) for key in keys])
    new = known == _NEW
    # Only through new images does validation spread: the pieces of a cut mosaic stay apart.
    linking = edges[new[edges].any(axis=1)]
    pieces = components(len(keys), linking[:, 0], linking[:, 1])
    reached = np.isin(pieces, pieces[known == VAL])
    reached[edges[(known[edges] == VAL).any(axis=1)]] = True
    assignment = np.where(reached & new, np.int8(VAL), np.int8(TRAIN))
    assignment[(reached & (known == TRAIN)) | (known == LEFT_OUT)] = LEFT_OUT
    assignment[known == VAL] = VAL
    return assignment


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
