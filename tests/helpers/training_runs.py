"""Flags of small pre-training runs, and what a run has left in its folder, to compare runs."""

import json
from pathlib import Path
from typing import Any

from networks import SMALL_ARCH

from pretrain.runs.checkpoint import load_checkpoint
from pretrain.runs.metrics_log import read_metrics
from pretrain.runs.run_folder import RunPaths
from pretrain.training.progress import Progress

TIMING = {"images_per_second", "data_wait", "epoch_seconds"}


def run_flags(shards: Path, run: Path, *more: str) -> list[str]:
    """Flags of a run that takes seconds; `more` may override them."""
    base = ["--arch", SMALL_ARCH, "--shards", str(shards), "--run-dir", str(run)]
    base += ["--image-size", "32", "--batch-size", "8", "--device", "cpu"]
    return [*base, "--threads", "1", "--loader-threads", "1", *more]


def numbers(run: Path) -> list[dict[str, float]]:
    """The metrics of each epoch, without those of speed."""
    return [{k: v for k, v in record.items() if k not in TIMING} for record in read_metrics(run)]


def newest(run: Path) -> tuple[Progress, dict[str, Any]]:
    """Progress and state of the newest checkpoint."""
    found = load_checkpoint(RunPaths(run).checkpoints, Progress)
    assert found is not None
    return found


def position(run: Path) -> tuple[int, int] | None:
    """Epoch and step of the newest checkpoint; None without one."""
    found = load_checkpoint(RunPaths(run).checkpoints, Progress)
    return found and (found[0].epoch, found[0].step)


def ids_of(run: Path) -> dict[tuple[int, int], list[int]]:
    """(epoch, step) -> sorted sample ids, over all processes of all attempts."""
    batches: dict[tuple[int, int], list[int]] = {}
    for path in run.glob("ids-*.jsonl"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            batches.setdefault((record["epoch"], record["step"]), []).extend(record["ids"])
    return {at: sorted(ids) for at, ids in sorted(batches.items())}
