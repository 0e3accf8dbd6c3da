"""Summarise a training run on one screen, or several in a table.

python -m pretrain.summary runs/efficientnet-b4.random
python -m pretrain.summary runs/*            the best first
python -m pretrain.summary runs/* --json     for programs

Imports no torch.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from micrograph.cli import UserError, program, warn
from micrograph.settings import Positional, load_config
from pretrain.cards.encoder_card import CARD_NAME
from pretrain.cards.usage import segment_command
from pretrain.outputs.run_folder import read_best_metadata, read_run, read_sources
from pretrain.runs.metrics_log import read_metrics
from pretrain.runs.run_folder import RunPaths
from pretrain.runs.status import Status, read_status
from pretrain.runs.throughput import duration, seconds_left

_LISTED = 5  # worst classes, and most confused pairs
_MAX_SILENCE = 900.0  # seconds without an update after which a run counts as killed


@dataclass(frozen=True, kw_only=True)
class SummaryConfig:
    """Print the state and the accuracy of training runs."""

    runs: Annotated[tuple[Path, ...], Positional, "folders of runs"]
    json: Annotated[bool, "all of it, as a JSON list"] = False


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(SummaryConfig, argv)
    summaries = _summarise_all(config.runs)
    if config.json:
        print(json.dumps([asdict(summary) for summary in summaries], indent=1))
    elif len(config.runs) == 1:
        _print_one(summaries[0])
    else:
        _print_table(summaries)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The state of a run. Accuracies are fractions in [0, 1], of the best epoch."""

    run: str
    arch: str
    init: str
    image_size: int  # pixels
    corpus: str
    corpus_hash: str
    classes: int
    train_images: int
    val_images: int
    licences: tuple[str, ...]
    restrictions: tuple[str, ...]
    state: str  # a `RunState`, `killed`, or `unknown`
    reason: str
    epoch: int  # completed
    epochs: int
    seconds_left: float | None  # at most
    converged: bool | None
    best_epoch: int | None
    top1: float | None
    top5: float | None
    balanced_accuracy: float | None
    worst_classes: tuple[dict[str, Any], ...]  # name, right, images
    most_confused: tuple[dict[str, Any], ...]  # true, predicted, count, images
    epoch_seconds: float | None  # the median
    images_per_second: float | None
    data_wait: float | None  # fraction of the training time
    trained_seconds: float
    next_step: str


def summarise(folder: Path) -> Summary:
    """Read a run's folder. Raises `UserError` when there is no run in it, or it is damaged."""
    config, manifest, paths = read_run(folder)
    records = read_metrics(folder)
    best = read_best_metadata(paths)
    sources = read_sources(manifest, paths)
    status = read_status(folder)
    epoch = int(records[-1]["epoch"]) if records else 0
    state, reason = _state(status, epoch, config.epochs)
    scores = best["scores"] if best else {}
    counts = np.asarray(best["confusion"] if best else [], dtype=np.int64)
    converged = best["converged"] if best else None
    return Summary(
        run=str(folder),
        arch=config.arch,
        init=config.init,
        image_size=config.image_size,
        corpus=manifest.name,
        corpus_hash=manifest.corpus_hash,
        classes=len(manifest.classes),
        train_images=manifest.splits["train"].samples,
        val_images=manifest.splits["val"].samples,
        licences=tuple(sorted({source.licence or "unknown" for source in sources})),
        restrictions=tuple(
            f"{source.name}: {source.restriction}" for source in sources if source.restriction
        ),
        state=state,
        reason=reason,
        epoch=epoch,
        epochs=config.epochs,
        seconds_left=seconds_left(records, config.epochs) if state == "running" else None,
        converged=converged,
        best_epoch=best["epoch"] if best else None,
        top1=scores.get("top1"),
        top5=scores.get("top5"),
        balanced_accuracy=scores.get("balanced_accuracy"),
        worst_classes=_worst_classes(counts, manifest.classes),
        most_confused=_most_confused(counts, manifest.classes),
        epoch_seconds=_median(records, "epoch_seconds"),
        images_per_second=_median(records, "images_per_second"),
        data_wait=_median(records, "data_wait"),
        trained_seconds=sum(record.get("epoch_seconds", 0.0) for record in records),
        next_step=_next_step(state, converged, paths),
    )


def _summarise_all(folders: Sequence[Path]) -> list[Summary]:
    """Among several folders (`runs/*`), those without a run are skipped with a warning."""
    summaries = []
    for folder in folders:
        try:
            summaries.append(summarise(folder))
        except UserError as error:
            if len(folders) == 1:
                raise
            warn(f"{folder} skipped: {error}")
    if not summaries:
        raise UserError("no training run in these folders")
    return sorted(summaries, key=lambda summary: -(summary.top1 or 0))


def _state(status: Status | None, epoch: int, epochs: int) -> tuple[str, str]:
    if status is None:
        return ("finished", "") if epoch >= epochs else ("unknown", "")
    silence = time.time() - status.updated
    if status.state == "running" and silence > _MAX_SILENCE:
        return "killed", f"no update for {duration(silence)}"
    return status.state, status.reason


def _worst_classes(counts: np.ndarray, classes: Sequence[str]) -> tuple[dict[str, Any], ...]:
    scores: list[dict[str, Any]] = [
        {"name": name, "right": int(row[label]), "images": int(row.sum())}
        for label, (name, row) in enumerate(zip(classes, counts, strict=False))
        if row.sum() > row[label]
    ]
    scores.sort(key=lambda score: (score["right"] / score["images"], -score["images"]))
    return tuple(scores[:_LISTED])


def _most_confused(counts: np.ndarray, classes: Sequence[str]) -> tuple[dict[str, Any], ...]:
    pairs: list[dict[str, Any]] = [
        {"true": classes[i], "predicted": classes[j], "count": int(n), "images": int(row.sum())}
        for i, row in enumerate(counts)
        for j, n in enumerate(row)
        if i != j and n
    ]
    pairs.sort(key=lambda pair: (-pair["count"], pair["images"]))
    return tuple(pairs[:_LISTED])


def _median(records: Sequence[dict[str, float]], name: str) -> float | None:
    values = [record[name] for record in records if name in record]
    return median(values) if values else None


def _next_step(state: str, converged: bool | None, paths: RunPaths) -> str:
    folder = paths.folder
    if state == "running":
        return "" if converged is not False else "wait, or stop it: it has not converged yet"
    if state in ("interrupted", "killed", "unknown"):
        return f"accelerate launch pretrain/train.py --config {paths.config} --run-dir {folder}"
    if state == "failed" or not converged:
        return "train again with a lower --lr, or from --init imagenet, in another --run-dir"
    if (folder / "export" / CARD_NAME).exists():
        return segment_command(folder / "export")
    return f"python -m pretrain.export {folder}"


def _print_one(summary: Summary) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    init = summary.init if summary.init not in ("random", "imagenet") else f"{summary.init} weights"
    rows = {
        "run": summary.run,
        "arch": f"{summary.arch} from {init}, {summary.image_size} px",
        "corpus": f"{summary.corpus or summary.corpus_hash[:12]}: {summary.classes} classes, "
        f"{summary.train_images} training and {summary.val_images} validation images",
        "licences": ", ".join(summary.licences),
        "restricted": "; ".join(summary.restrictions),
        "state": _format_state(summary),
        "best": _format_best(summary),
        "speed": _format_speed(summary),
        "worst classes": "\n".join(
            f"{score['right'] / score['images']:4.0%} of {score['images']} {score['name']}"
            for score in summary.worst_classes
        ),
        "most confused": "\n".join(
            f"{pair['count']} of {pair['images']} {pair['true']} predicted as {pair['predicted']}"
            for pair in summary.most_confused
        ),
        "next": summary.next_step,
    }
    for name, text in rows.items():
        if text:
            table.add_row(name, text)
    _out().print(table)


def _format_state(summary: Summary) -> str:
    text = f"{summary.state}, {summary.epoch} of {summary.epochs} epochs"
    if summary.reason:
        text += f": {summary.reason}"
    if summary.seconds_left is not None:
        text += f", at most {duration(summary.seconds_left)} left"
    return text


def _format_best(summary: Summary) -> str:
    if summary.top1 is None or summary.top5 is None or summary.balanced_accuracy is None:
        return "no epoch validated yet"
    text = (
        f"epoch {summary.best_epoch}: top-1 {summary.top1:.1%}, top-5 {summary.top5:.1%}, "
        f"mean of classes {summary.balanced_accuracy:.1%}"
    )
    return text if summary.converged else f"{text}; NOT CONVERGED (chance level), do not use it"


def _format_speed(summary: Summary) -> str:
    if summary.epoch_seconds is None or summary.images_per_second is None:
        return ""
    text = f"{duration(summary.epoch_seconds)} per epoch, {summary.images_per_second:.0f} img/s"
    if summary.data_wait is not None:
        text += f", {summary.data_wait:.1%} of the time waiting for data"
    return f"{text}; {duration(summary.trained_seconds)} in all"


_COLUMNS: dict[str, Callable[[Summary], str]] = {
    "run": lambda s: s.run,
    "state": lambda s: s.state + (", at chance" if s.converged is False else ""),
    "epochs": lambda s: f"{s.epoch}/{s.epochs}",
    "best": lambda s: str(s.best_epoch or "-"),
    "top-1": lambda s: _percent(s.top1),
    "top-5": lambda s: _percent(s.top5),
    "class mean": lambda s: _percent(s.balanced_accuracy),
    "per epoch": lambda s: "-" if s.epoch_seconds is None else duration(s.epoch_seconds),
    "img/s": lambda s: "-" if s.images_per_second is None else f"{s.images_per_second:.0f}",
    "wait": lambda s: _percent(s.data_wait),
}


def _print_table(summaries: Sequence[Summary]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("state", no_wrap=True)
    for heading in list(_COLUMNS)[2:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        table.add_row(*(text(summary) for text in _COLUMNS.values()))
    _out().print(table)
    if len({summary.corpus_hash for summary in summaries}) > 1:
        warn("these runs validate on different images: do not compare their accuracies")


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.1%}"


def _out() -> Console:
    width = None if sys.stdout.isatty() else 200  # for a pipe, rich would assume 80
    return Console(highlight=False, markup=False, width=width)


if __name__ == "__main__":
    main()
