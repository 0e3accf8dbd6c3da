"""The folder of a run: its files, and how other programs read them. Imports no torch.

config.yaml       the resolved settings; `--config` repeats the run with them
metrics.jsonl     one line per epoch, or per window of steps
status.json       the state of the run (pretrain.runs.status)
best.safetensors  the network that was kept
checkpoints/      to resume from; removed at the end
.lock             held by the process that trains

Runs of downstream.segment and downstream.adapt also have:

data.json         the images of each split, and a hash of all pixels and labels
card.json         what users of the network must know
masks/            predicted class indices
results.json      all scores; written last
"""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micrograph.atomic import write_atomically, writing_to
from micrograph.cli import UserError
from micrograph.locks import lock_folder
from micrograph.settings import dump_config
from pretrain.cards.encoder_card import CARD_NAME
from pretrain.cards.segmenter_card import DATA_NAME

RESULTS_VERSION = 1  # of results.json


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The paths in a run's folder."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def lock(self) -> Path:
        return self.folder / ".lock"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def best(self) -> Path:
        return self.folder / "best.safetensors"

    @property
    def data(self) -> Path:
        return self.folder / DATA_NAME

    @property
    def card(self) -> Path:
        return self.folder / CARD_NAME

    @property
    def masks(self) -> Path:
        return self.folder / "masks"

    @property
    def results(self) -> Path:
        return self.folder / "results.json"


def write_config(folder: Path, config: Any) -> None:
    """Write the settings, which make the folder this run's; whatever describes its data is there.

    Raises `UserError` when the folder cannot be written.
    """
    with writing_to(folder):
        write_atomically(RunPaths(folder).config, dump_config(config).encode())


def lock_run_folder(folder: Path) -> ExitStack:
    """Lock a run's folder until the result is closed or this process ends, even if killed.

    Raises `UserError` if another process holds the lock, or the folder cannot be written.
    """
    hint = "wait for it, or end it (a killed launcher can leave its trainer alive)"
    return lock_folder(folder, RunPaths(folder).lock.name, hint=hint)


def read_results(folder: Path) -> dict[str, Any]:
    """The results of a finished run. Raises `UserError` if it is not finished."""
    path = RunPaths(folder).results
    if not path.is_file():
        raise UserError(f"no {path.name} in {folder}: the run is not finished")
    return _read_json(path)


def read_data(folder: Path) -> dict[str, Any]:
    """`data.json` of a run that has begun: `sha256`, `classes`, image names in `splits`."""
    return _read_json(RunPaths(folder).data)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises `UserError` for a file that holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    return content
