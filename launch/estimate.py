"""What a grid will cost in hours: one short timing of each kind of task, added up over all.

python -m launch.estimate GRID        on a machine like those that will train: it runs the doctor
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from launch.grid import load_grid
from launch.programs import command_flags
from launch.tasks import Task
from pretrain.config import TrainConfig
from shards.cli import ArgumentParser, UserError, program, progress, warn
from shards.settings import as_plain, build_config

_TRAIN = "pretrain.train"
# Settings that tell tasks apart and cost no time.
_FREE = frozenset(
    {
        *("run_dir", "init", "seed", "epochs", "patience", "lr", "lr_schedule"),
        *("lr_reference_batch_size", "lr_decay", "lr_decay_epochs", "warmup_epochs", "momentum"),
        *("weight_decay", "label_smoothing", "wandb", "wandb_project"),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """Tasks whose epochs take equally long."""

    settings: dict[str, Any]  # of the first of them
    epochs: tuple[int, ...]  # of each of them, at most


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description="Estimate how many hours a grid of trainings will take.")
    parser.add_argument("grid", type=Path, help="YAML file of the grid, or a frozen tasks.json")
    parser.add_argument("--json", action="store_true", help="seconds of each kind, as a JSON list")
    arguments = parser.parse_args(argv)
    kinds = find_kinds(load_grid(arguments.grid).tasks)
    seconds = [_time(kind) for kind in progress(kinds, "timing")]
    if arguments.json:
        pairs = zip(kinds, seconds, strict=True)
        print(json.dumps([asdict(kind) | {"epoch_seconds": epoch} for kind, epoch in pairs]))
    else:
        _print(kinds, seconds)
    if None in seconds:
        sys.exit(1)


def find_kinds(tasks: Iterable[Task]) -> list[Kind]:
    """The kinds of trainings among `tasks`. Raises `UserError` when there is another program."""
    kinds: dict[str, Kind] = {}
    for task in tasks:
        if task.program != _TRAIN:
            raise UserError(f"{task.name} runs {task.program}; only {_TRAIN} can be estimated")
        settings = as_plain(build_config(TrainConfig, task.values))
        key = json.dumps({name: value for name, value in settings.items() if name not in _FREE})
        known = kinds.get(key, Kind(settings=settings, epochs=()))
        kinds[key] = Kind(settings=known.settings, epochs=(*known.epochs, settings["epochs"]))
    return list(kinds.values())


def hours(kind: Kind, epoch_seconds: float) -> float:
    """Of all tasks of a kind, on one device; more devices take as many device-hours, or more."""
    return sum(kind.epochs) * epoch_seconds / 3600


def _time(kind: Kind) -> float | None:
    """Seconds of an epoch by the doctor's timing; None, and a warning, when it finds a fault."""
    # Where weights come from costs no time, and they need not be here yet.
    flags = command_flags({**kind.settings, "init": "random"})
    command = [sys.executable, "-m", "pretrain.doctor", *flags, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        findings = json.loads(done.stdout)
    except ValueError:
        findings = []
    for finding in findings:
        if finding["check"] == "time":
            return float(finding["numbers"]["epoch_seconds"])
    faults = [f["found"] for f in findings if f["level"] == "fail"] or [done.stderr.strip()[-300:]]
    warn(f"{kind.settings['arch']} could not be timed: {'; '.join(faults)}")
    return None


def _print(kinds: Sequence[Kind], seconds: Sequence[float | None]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("arch")
    for heading in ("pixels", "tasks", "epoch", "hours at most"):
        table.add_column(heading, justify="right")
    total = 0.0
    for kind, epoch in zip(kinds, seconds, strict=True):
        cost = None if epoch is None else hours(kind, epoch)
        total += cost or 0.0
        table.add_row(
            kind.settings["arch"],
            str(kind.settings["image_size"]),
            str(len(kind.epochs)),
            _say(epoch, "{:.1f} s"),
            _say(cost, "{:.2f}"),
        )
    table.add_row("all", "", str(sum(len(kind.epochs) for kind in kinds)), "", f"{total:.2f}")
    out = Console(highlight=False)
    out.print(table)
    out.print("hours of one GPU like this machine's, or of all its cores where there is none")


def _say(value: float | None, pattern: str) -> str:
    return "?" if value is None else pattern.format(value)


if __name__ == "__main__":
    main()
