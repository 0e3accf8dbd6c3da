"""Mean and spread over folds and seeds, and how evenly a network errs to both sides. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from downstream.uda.bench.runs import Counts


@dataclass(frozen=True, slots=True)
class Spread:
    """Values of several runs; nan where there are too few. Standard deviations of a sample."""

    n: int
    folds: int
    seeds: int
    mean: float
    std: float  # over all runs; with one seed it is paper B's, over folds
    fold_std: float  # over folds at one seed, pooled over the seeds
    seed_std: float  # over seeds at one fold, pooled over the folds


def spread(values: Mapping[tuple[int, int], float]) -> Spread:
    """Summarise (fold, seed) -> value."""
    numbers = np.array(list(values.values()))
    return Spread(
        n=len(values),
        folds=len({fold for fold, _ in values}),
        seeds=len({seed for _, seed in values}),
        mean=float(numbers.mean()) if len(numbers) else float("nan"),
        std=float(numbers.std(ddof=1)) if len(numbers) > 1 else float("nan"),
        fold_std=_pooled(values, by=1),
        seed_std=_pooled(values, by=0),
    )


@dataclass(frozen=True, slots=True)
class Balance:
    """How a network errs on one class. Shares of all pixels."""

    false: float  # said to be of the class, and are not
    missed: float  # are, and are not said to be

    @property
    def skew(self) -> float:
        """-1: all faults are misses; 0: as many of both; 1: all are false alarms. nan: no fault."""
        total = self.false + self.missed
        return (self.false - self.missed) / total if total else float("nan")


def balance(confusion: Counts, index: int) -> Balance:
    """Of class `index` in a confusion matrix by [true class][predicted class]."""
    pixels = confusion.sum()
    hits = confusion[index, index]
    return Balance(
        false=float((confusion[:, index].sum() - hits) / pixels),
        missed=float((confusion[index].sum() - hits) / pixels),
    )


def _pooled(values: Mapping[tuple[int, int], float], by: int) -> float:
    """Root of the mean variance within groups of one fold (`by` 0) or seed (1), by their freedom.

    Groups of one value say nothing.
    """
    groups: dict[int, list[float]] = {}
    for place, value in values.items():
        groups.setdefault(place[by], []).append(value)
    freedom = sum(len(group) - 1 for group in groups.values())
    squares = sum(float(((np.array(g) - np.mean(g)) ** 2).sum()) for g in groups.values())
    return float(np.sqrt(squares / freedom)) if freedom else float("nan")
