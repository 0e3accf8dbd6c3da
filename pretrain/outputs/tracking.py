"""Where a pre-training reports: metrics.jsonl, the console, plots, and optionally wandb.

Imports no torch.
"""

import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from micrograph.cli import UserError, console
from micrograph.settings import to_json
from pretrain.config import TrainConfig
from pretrain.outputs.run_folder import read_best_metadata
from pretrain.runs.metrics_log import Confusion, MetricsLog, Record
from pretrain.runs.run_folder import RunPaths
from pretrain.runs.throughput import duration, seconds_left
from shards.shard_format.schema import Manifest

_WANDB_ID_NAME = "wandb_id.txt"
_STEP = "epochs_trained"  # including those that roll-backs have undone


class RunTracker:
    """Appends to `metrics.jsonl`, prints a line, draws, and mirrors all of it to wandb."""

    def __init__(
        self, folder: Path, config: TrainConfig, manifest: Manifest, metrics: MetricsLog
    ) -> None:
        from pretrain.outputs.plots import Pictures  # matplotlib: not on every login node

        self._folder = folder
        self._at: Record = {}  # of the latest epoch
        self._epochs = config.epochs
        self._metrics = metrics
        self._wandb = _start_wandb(folder, config, manifest) if config.wandb else None
        self._pictures = Pictures(folder, manifest.classes)

    def log(self, record: Record, confusion: Confusion) -> None:
        """Report one finished epoch; `confusion` is [true class][predicted class]."""
        self._metrics.append(dict(sorted(record.items())))
        self._at = {name: record[name] for name in ("epoch", _STEP) if name in record}
        left = seconds_left(self._metrics.records, self._epochs) or 0.0
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
        self._show(self._pictures.update(self._metrics.records, confusion))

    def close(self) -> None:
        """Draw what is due, and end the wandb run."""
        self._show(self._pictures.draw())
        if self._wandb is not None:
            if (best := read_best_metadata(RunPaths(self._folder))) is not None:
                self._wandb.summary["best_epoch"] = best["epoch"]
                self._wandb.summary["best"] = best["scores"] | {"converged": best["converged"]}
            self._wandb.finish()

    def _show(self, pictures: Sequence[Path]) -> None:
        if self._wandb is not None and pictures:
            from wandb import Image

            images = {path.stem: Image(str(path)) for path in pictures}
            self._wandb.log({**self._at, **images})


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
        resume="allow",  # a requeued run continues its own curve
        dir=folder,
        config={**to_json(config), "corpus": _describe_corpus(manifest)},
    )
    # Not wandb's own count, as a killed run trains its last epoch again; nor the epoch, to which
    # a roll-back returns: a curve would run backwards.
    run.define_metric("*", step_metric=_STEP)
    return run


def _describe_corpus(manifest: Manifest) -> dict[str, Any]:
    """The corpus as an encoder's card describes it."""
    return {
        "classes": list(manifest.classes),
        "images": {name: split.samples for name, split in manifest.splits.items()},
        "channels": manifest.channels,
        "corpus_hash": manifest.corpus_hash,
        "sources": [asdict(source) for source in manifest.sources],
    }
