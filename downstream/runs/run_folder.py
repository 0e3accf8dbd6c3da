"""The folder of one segmentation run: what it holds beside what every run has. No torch.

data.json           the images of each split, and a hash of all pixels and labels
checkpoints/        removed when the run is finished
best.safetensors    the network with the best validation micro IoU
card.json           what its user must know: decoder, encoder, classes, mean and std
masks/NAME.png      class indices, of the test images (without a test, of the validation images)
maps/CLASS/NAME.png true positives white, false cyan, missed magenta
scores.png          the same on one sheet
results.json        all scores; there only when all is done
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micrograph.atomic import write_atomically
from micrograph.cli import UserError, console
from pretrain.cards.encoder_card import CARD_NAME
from pretrain.cards.segmenter_card import SEGMENTER_NAME
from pretrain.runs.resume_check import check_same_data, check_same_settings


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Where things lie in a run's folder."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def data(self) -> Path:
        return self.folder / "data.json"

    @property
    def best(self) -> Path:
        return self.folder / SEGMENTER_NAME

    @property
    def card(self) -> Path:
        return self.folder / CARD_NAME

    @property
    def masks(self) -> Path:
        return self.folder / "masks"

    @property
    def maps(self) -> Path:
        return self.folder / "maps"

    @property
    def sheet(self) -> Path:
        return self.folder / "scores.png"

    @property
    def results(self) -> Path:
        return self.folder / "results.json"


def finished_results(
    paths: RunPaths, config: Any, data_sha256: Callable[[], str], place: str
) -> dict[str, Any] | None:
    """The results of this run where it has finished; None where there is something to train.

    Raises `UserError` when the folder holds a run with other settings, or on other data than
    `place` now holds.
    """
    finished = paths.results.exists()
    check_same_settings(paths.folder, config, finished=finished)
    if paths.data.exists():
        before = read_data(paths.folder)["sha256"]
        check_same_data(paths.folder, before, data_sha256(), place)
    if not finished:
        return None
    console.print(f"{paths.folder} is finished", markup=False)
    return read_results(paths.folder)


def read_results(run_dir: Path) -> dict[str, Any]:
    """What a finished run wrote. Raises `UserError` when it is not finished."""
    path = RunPaths(run_dir).results
    if not path.is_file():
        raise UserError(f"no {path.name} in {run_dir}: no finished run is there")
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def read_data(run_dir: Path) -> dict[str, Any]:
    """`sha256`, `classes`, and the names of the images in `splits`, of a run that has begun."""
    description: dict[str, Any] = json.loads(RunPaths(run_dir).data.read_text(encoding="utf-8"))
    return description


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all; nan, which JSON lacks, becomes null."""
    write_atomically(path, (json.dumps(_to_json(content), indent=1) + "\n").encode())


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
