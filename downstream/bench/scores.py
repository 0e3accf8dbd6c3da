"""What many runs say together: mean and spread with failures counted, best runs, errors reduced."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from downstream.bench.runs import Run

Metric = Literal["micro_iou", "miou"]
METRICS: dict[Metric, str] = {"micro_iou": "micro IoU", "miou": "mIoU"}


@dataclass(frozen=True, slots=True)
class Cell:
    """The runs of one cell of a table. Shares in [0, 1]; nan where there are too few runs."""

    n: int  # runs with a score, collapsed ones included
    failed: int  # of them, collapsed
    unfinished: int  # beside them: still running, killed, or never scored on a test
    mean: float
    std: float  # of the sample (ddof 1); paper A does not say which
    median: float
    converged_mean: float  # of the n - failed others
    converged_std: float


def cell(runs: Iterable[Run], metric: Metric) -> Cell:
    """Summarise runs. As in paper A a collapsed run counts with the score that it has."""
    runs = list(runs)
    scored = [run for run in runs if run.scored]
    failed = sum(bool(run.failure) for run in scored)
    values = _values(scored, metric)
    converged = _values([run for run in scored if not run.failure], metric)
    return Cell(
        n=len(scored),
        failed=failed,
        unfinished=len(runs) - len(scored),
        mean=_mean(values),
        std=_std(values),
        median=float(np.median(values)) if values else float("nan"),
        converged_mean=_mean(converged),
        converged_std=_std(converged),
    )


def relative_error_reduction(baseline: float, improved: float) -> float:
    """By what share the error 1 - IoU falls: ((1 - baseline) - (1 - improved)) / (1 - baseline).

    Paper A, Segmentation Results: 74.8 to 93.0 % is a reduction of 72.2 %. Negative when it rises;
    nan when the baseline makes no error.
    """
    return (improved - baseline) / (1 - baseline) if baseline < 1 else float("nan")


def best_run(runs: Iterable[Run], *, by_test: bool) -> Run | None:
    """The best converged run by test micro IoU, as paper A chose, or by validation micro IoU.

    A choice by test scores is optimistic, the more so the more runs there are to choose from.
    """
    scored = [run for run in runs if run.scored and not run.failure]
    return max(
        scored, key=lambda r: (r.micro_iou if by_test else r.val_micro_iou) or 0, default=None
    )


def _values(runs: Sequence[Run], metric: Metric) -> list[float]:
    values = [run.micro_iou if metric == "micro_iou" else run.miou for run in runs]
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _std(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
