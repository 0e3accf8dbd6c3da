"""What the tasks of a grid measured: a reader for each program, a row for each task."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.programs import find_program
from launch.state import TaskState
from pretrain.runs.metrics_log import read_metrics
from pretrain.status import read_status
from shards.cli import UserError

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Result:
    """One task's row."""

    state: TaskState
    metrics: Metrics  # shares in [0, 1], unless the name says otherwise; empty without a result
    converged: bool | None  # None: the program does not tell


def read_result(state: TaskState) -> Result:
    """What a task measured so far. Raises `UserError` for files that cannot be read."""
    reader = READERS.get(state.task.program)
    if reader is None:
        known = ", ".join(READERS)
        raise UserError(f"no reader for the results of {state.task.program}; there are {known}")
    metrics, converged = reader(state.task.folder)
    return Result(state, metrics, converged)


def _training(folder: Path) -> tuple[Metrics, bool | None]:
    """Of the best epoch, as metrics.jsonl and status.json have it."""
    status = read_status(folder)
    if status is None or not status.best_epoch:
        return {}, None
    best: Metrics = {"epoch": float(status.epoch), "best_epoch": float(status.best_epoch)}
    seconds = 0.0
    for record in read_metrics(folder):
        seconds += record.get("epoch_seconds", 0.0)
        if record.get("epoch") == status.best_epoch:
            best |= {
                name.removeprefix("val_"): value
                for name, value in record.items()
                if name.startswith("val_") and isinstance(value, (int, float))
            }
    if status.best_top1 is not None:
        best["top1"] = status.best_top1
    return best | {"train_hours": seconds / 3600}, status.converged


def _segmentation(folder: Path) -> tuple[Metrics, bool | None]:
    """Scores of both splits, the epoch of the kept weights, and whether the run collapsed."""
    results = _json(folder / (find_program("downstream.segment").result_name or ""))
    if not results:
        return {}, None
    metrics: Metrics = {"best_epoch": results["best"]["epoch"]}
    metrics["train_hours"] = results["minutes"] / 60
    for split in ("test", "val"):
        scores: Mapping[str, Any] = results.get(split) or {}
        metrics |= {
            f"{split}_{name}": value
            for name, value in scores.items()
            if isinstance(value, (int, float))
        }
        for kind in ("iou", "phase_fraction_error"):
            for name, value in scores.get(kind, {}).items():
                if value is not None:
                    metrics[f"{split}_{kind}_{name}"] = value
    return metrics, results["converged"]


def _adaptation(folder: Path) -> tuple[Metrics, bool | None]:
    """mIoU and phase fractions of every domain, and whether the run collapsed."""
    results = _json(folder / (find_program("downstream.adapt").result_name or ""))
    if not results:
        return {}, None
    hours = results["steps"] * results["seconds_per_step"] / 3600
    metrics: Metrics = {"steps": results["steps"], "train_hours": hours}
    for domain, scores in results["domains"].items():
        if scores["miou"] is not None:
            metrics[f"{domain}_miou"] = scores["miou"]
        for name, value in scores["phase_fraction"].items():
            metrics[f"{domain}_phase_fraction_{name}"] = value
    target: Mapping[str, Any] = results["domains"].get(results["target"], {})
    if target.get("miou") is not None:
        metrics["target_miou"] = target["miou"]
    return metrics, results["converged"]


READERS: dict[str, Callable[[Path], tuple[Metrics, bool | None]]] = {
    "pretrain.train": _training,
    "downstream.segment": _segmentation,
    "downstream.adapt": _adaptation,
}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content
