"""What a run reports: a line per epoch, on the console and in `metrics.jsonl`; wandb if asked."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from pretrain.atomic import write_atomically
from pretrain.config import TrainConfig
from pretrain.pace import duration
from shards.cli import UserError, console
from shards.schema import Manifest
from shards.settings import as_plain

METRICS_NAME = "metrics.jsonl"
_WANDB_ID_NAME = "wandb_id.txt"
_STEP = "epochs_trained"  # with those that roll-backs have undone
_LATEST = 5  # epochs by which the time of the next ones is judged

Record = Mapping[str, float]
Confusion = Sequence[Sequence[int]]  # [true class][predicted class]


class Tracker(Protocol):
    """Where the numbers of a run go."""

    def log(self, record: Record, confusion: Confusion) -> None:
        """Report one finished epoch; `confusion` is [true class][predicted class]."""

    def rewind(self, epochs_done: int) -> None:
        """Forget the epochs after `epochs_done`; they will be trained again."""

    def finish(self) -> None:
        """The run has come to its end."""

    def close(self) -> None:
        """Flush and release."""


class NullTracker:
    """Reports nothing: what every process but the first has."""

    def log(self, record: Record, confusion: Confusion) -> None:
        return

    def rewind(self, epochs_done: int) -> None:
        return

    def finish(self) -> None:
        return

    def close(self) -> None:
        return


class RunTracker:
    """Appends to `metrics.jsonl`, prints a line, and mirrors both to wandb."""

    def __init__(
        self, folder: Path, config: TrainConfig, manifest: Manifest, epochs_done: int
    ) -> None:
        from pretrain.plots import Pictures  # matplotlib: not on every login node

        self._folder = folder
        self._path = folder / METRICS_NAME
        self._at: Record = {}  # of the latest epoch
        self._epochs = config.epochs
        self._records = read_metrics(folder)
        self.rewind(epochs_done)  # a checkpoint may be older than the last line
        self._wandb = _start_wandb(folder, config, manifest) if config.wandb else None
        self._pictures = Pictures(folder, manifest.classes)

    def log(self, record: Record, confusion: Confusion) -> None:
        self._records.append(dict(record))
        self._at = {name: record[name] for name in ("epoch", _STEP) if name in record}
        left = seconds_left(self._records, self._epochs) or 0.0
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(_line(record))
        console.print(
            f"epoch {record['epoch']:3.0f}/{self._epochs}  lr {record['lr']:.4f}  "
            f"train loss {record['train_loss']:.3f}  val loss {record['val_loss']:.3f}  "
            f"top-1 {record['val_top1']:6.2%}  top-5 {record['val_top5']:6.2%}  "
            f"best {record['best_top1']:6.2%}  {record['images_per_second']:.0f} img/s  "
            f"waiting {record['data_wait']:.1%}  left {duration(left)}",
            soft_wrap=True,
        )
        if self._wandb is not None:
            self._wandb.log(dict(record))
        self._show(self._pictures.update(self._records, confusion))

    def rewind(self, epochs_done: int) -> None:
        self._records = [record for record in self._records if record["epoch"] <= epochs_done]
        write_atomically(self._path, "".join(_line(record) for record in self._records).encode())

    def finish(self) -> None:
        """What an export will say of the kept epoch goes to wandb."""
        if self._wandb is None:
            return
        from pretrain.export import export_encoder  # needs torch

        with TemporaryDirectory() as scratch:
            card = export_encoder(self._folder, Path(scratch) / "export")
        self._wandb.summary["card"] = asdict(card)

    def close(self) -> None:
        self._show(self._pictures.draw())
        if self._wandb is not None:
            if (best := best_record(self._records)) is not None:
                self._wandb.summary["best_epoch"] = int(best["epoch"])
            self._wandb.finish()

    def _show(self, pictures: Sequence[Path]) -> None:
        if self._wandb is not None and pictures:
            from wandb import Image

            images = {path.stem: Image(str(path)) for path in pictures}
            self._wandb.log({**self._at, **images})


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The records of a run, one per epoch; a last line cut short by a kill is left out."""
    path = folder / METRICS_NAME
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def best_record(records: Sequence[Record]) -> Record | None:
    """The epoch whose weights are kept: the first with the highest validation top-1.

    Epochs without a finite loss are not kept, whatever they score.
    """
    sound = [record for record in records if isfinite(record.get("val_loss", 0.0))]
    return max(sound, key=lambda record: record["val_top1"]) if sound else None


def seconds_left(records: Sequence[Record], epochs: int) -> float | None:
    """Until the last of `epochs` ends, judged by the latest epochs; None before the first."""
    latest = [record["epoch_seconds"] for record in records[-_LATEST:] if "epoch_seconds" in record]
    return median(latest) * (epochs - records[-1]["epoch"]) if latest else None


def seconds_between(records: Sequence[Record], samples: int) -> float:
    """What the latest epochs, of so many training samples, took beside their training."""
    beside = [
        record["epoch_seconds"] - samples / record["images_per_second"]
        for record in records[-_LATEST:]
        if record.get("images_per_second") and "epoch_seconds" in record
    ]
    return max(0.0, median(beside)) if beside else 0.0


def _line(record: Record) -> str:
    return json.dumps(record, sort_keys=True) + "\n"


def _start_wandb(folder: Path, config: TrainConfig, manifest: Manifest) -> Any:
    try:
        import wandb
    except ImportError:
        raise UserError("--wandb needs the wandb package: pip install wandb") from None
    id_file = folder / _WANDB_ID_NAME
    if not id_file.exists():
        id_file.write_text(uuid.uuid4().hex, encoding="ascii")
    run = wandb.init(
        project=config.wandb_project,
        name=folder.name,
        id=id_file.read_text(encoding="ascii"),
        resume="allow",  # a requeued run goes on in its own curve
        dir=folder,
        config={**as_plain(config), "corpus": _describe_corpus(manifest)},
    )
    # Not wandb's own count, as a killed run trains its last epoch again; nor the epoch, to which
    # a roll-back returns: a curve would run backwards.
    run.define_metric("*", step_metric=_STEP)
    return run


def _describe_corpus(manifest: Manifest) -> dict[str, Any]:
    """What an encoder's card says of its corpus."""
    return {
        "classes": list(manifest.classes),
        "images": {name: split.samples for name, split in manifest.splits.items()},
        "channels": manifest.channels,
        "corpus_hash": manifest.corpus_hash,
        "sources": [asdict(source) for source in manifest.sources],
    }
