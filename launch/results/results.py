"""What the tasks of a grid measured: a reader for each program. No torch."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from launch.state.state import TaskState, TaskStatus
from launch.tasks.programs import find_program
from micrograph.cli import UserError
from micrograph.literature_values import read_published
from pretrain.registry.nasa_models import micronet_models
from pretrain.runs.metrics_log import read_metrics
from pretrain.runs.status import read_status

Metrics = dict[str, float]  # shares in [0, 1], unless the name says otherwise; empty: no result


def read_results(statuses: Iterable[TaskStatus]) -> pd.DataFrame:
    """A row for each task, with a column for each axis of the grid and each metric.

    Columns besides: task, state, converged (None where the program does not say), reason; for
    pre-training paper_top1 and imagenet_top1. Raises `UserError` for files that cannot be read.
    """
    rows = []
    for status in statuses:
        task = status.task
        reader = _READERS.get(task.program)
        if reader is None:
            known = ", ".join(_READERS)
            raise UserError(f"no reader for the results of {task.program}; there are {known}")
        metrics, converged = reader(task.folder)
        row = {"task": task.name, "state": status.state, **task.point, "converged": converged}
        row |= metrics
        if task.program == "pretrain.train":
            arch, init = str(task.settings.get("arch")), str(task.settings.get("init", "random"))
            row["paper_top1"] = micronet_top1().get((arch, init))
            row["imagenet_top1"] = imagenet_top1().get(arch)
        rows.append(
            row
            | {
                "reason": status.detail
                if status.state in (TaskState.FAILED, TaskState.FINISHED)
                else ""
            }
        )
    frame = pd.DataFrame(rows, dtype=object)
    return frame[[*frame.columns.drop("reason"), "reason"]]


def micronet_top1() -> dict[tuple[str, str], float]:
    """(arch, init) -> top-1 on MicroNet's 2,700 validation images: paper A, figure 2(a).

    Of version 1.0, the paper's 76 models; 1.1 is a ResNet-50 that was trained again later.
    """
    return {(m.arch, m.init): m.top1 for m in micronet_models() if m.version == "1.0"}


def imagenet_top1() -> dict[str, float]:
    """arch -> top-1 on ImageNet of the weights that `--init imagenet` loads, where published."""
    rows = read_published("imagenet")
    return dict(rows.dropna(subset="value").set_index("arch").value)


def order_inits(inits: Iterable[str]) -> list[str]:
    """Each once, the paper's two first and in its order."""
    return sorted(set(inits), key=lambda init: (init != "random", init != "imagenet", init))


def _training(folder: Path) -> tuple[Metrics, bool | None]:
    """Of the best epoch, from metrics.jsonl and status.json."""
    status = read_status(folder)
    if status is None or not status.best_epoch:
        return {}, None
    best: Metrics = {"epoch": float(status.epoch), "best_epoch": float(status.best_epoch)}
    seconds = 0.0
    for record in read_metrics(folder):
        seconds += record.get("epoch_seconds", 0.0)
        if record.get("epoch") == status.best_epoch:
            values = {k.removeprefix("val_"): v for k, v in record.items() if k.startswith("val_")}
            best |= _numbers(values)
    if status.best_top1 is not None:
        best["top1"] = status.best_top1
    return best | {"train_hours": seconds / 3600}, status.converged


def _segmentation(folder: Path) -> tuple[Metrics, bool | None]:
    """Scores of both splits, the epoch of the kept weights, and whether the run converged."""
    results = _read_json(folder / (find_program("downstream.segment").result_name or ""))
    if not results:
        return {}, None
    metrics: Metrics = {"best_epoch": results["best"]["epoch"]}
    metrics["train_hours"] = results["minutes"] / 60
    for split in ("test", "val"):
        scores: Mapping[str, Any] = results.get(split) or {}
        metrics |= _numbers(scores, f"{split}_")
        for kind in ("iou", "phase_fraction_error"):
            metrics |= _numbers(scores.get(kind, {}), f"{split}_{kind}_")
    return metrics, results["converged"]


def _adaptation(folder: Path) -> tuple[Metrics, bool | None]:
    """mIoU and phase fractions of every domain, and whether the run converged."""
    results = _read_json(folder / (find_program("downstream.adapt").result_name or ""))
    if not results:
        return {}, None
    hours = results["steps"] * results["seconds_per_step"] / 3600
    metrics: Metrics = {"steps": results["steps"], "train_hours": hours}
    for domain, scores in results["domains"].items():
        metrics |= _numbers({"miou": scores["miou"]}, f"{domain}_")
        metrics |= _numbers(scores["phase_fraction"], f"{domain}_phase_fraction_")
    target: Mapping[str, Any] = results["domains"].get(results["target"], {})
    return metrics | _numbers({"miou": target.get("miou")}, "target_"), results["converged"]


_READERS: Mapping[str, Callable[[Path], tuple[Metrics, bool | None]]] = {
    "pretrain.train": _training,
    "downstream.segment": _segmentation,
    "downstream.adapt": _adaptation,
}


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Metrics:
    return {prefix + k: v for k, v in values.items() if isinstance(v, (int, float))}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content
