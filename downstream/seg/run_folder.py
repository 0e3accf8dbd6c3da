"""The folder of one segmentation run: what lies where in it, and how others read it. No torch.

config.yaml         the resolved settings; `--config` repeats the run with them
data.json           the images of each split, and a hash of all pixels and labels
metrics.jsonl       one line per epoch
checkpoints/        to go on from; removed when the run is done
best.safetensors    the network with the best validation micro IoU
card.json           what its user must know: decoder, encoder, classes, mean and std
masks/NAME.png      class indices, of the test images (without a test, of the validation images)
maps/CLASS/NAME.png true positives white, false cyan, missed magenta
scores.png          the same on one sheet
results.json        all scores; there only when all is done
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.atomic import write_atomically
from pretrain.card import CARD_NAME
from pretrain.opening import lock
from pretrain.segmenter_card import SEGMENTER_NAME
from shards.cli import UserError, console
from shards.settings import build_config, read_recipe


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
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def lock(self) -> Path:
        return self.folder / ".lock"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

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


def check_same_run(
    paths: RunPaths,
    config: Any,
    free: frozenset[str],
    data_sha256: Callable[[], str],
    owner: str,
) -> None:
    """Raise `UserError` when the folder holds another run than `config`, or one on other data.

    `config` is a settings dataclass, of which the `free` ones may change; `owner` of the data is
    named in the error.
    """
    if not paths.config.exists():
        return
    before = build_config(type(config), read_recipe(paths.config))
    for name in type(config).__dataclass_fields__:
        old, new = getattr(before, name), getattr(config, name)
        if old != new and name not in free:
            raise UserError(
                f"{paths.folder} holds a run with {name} {old}, not {new}; choose another "
                "--run-dir, or delete that folder"
            )
    if paths.data.exists() and read_data(paths.folder)["sha256"] != data_sha256():
        raise UserError(
            f"{paths.folder} was trained on other images or labels than {owner} now has; "
            "choose another --run-dir, or delete that folder"
        )


def read_or_run(paths: RunPaths, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a finished run found; else what `run` finds, alone in the folder.

    Raises `UserError` where another process is at work there.
    """
    if paths.results.exists():  # it may lie where nobody can write
        console.print(f"{paths.folder} is finished", markup=False)
        return read_results(paths.folder)
    with lock(paths.lock):
        return run()


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


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The epochs of a run so far; a last line cut short by a kill is left out."""
    path = RunPaths(run_dir).metrics
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def write_metrics(run_dir: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the epochs anew: after a resume, those after the checkpoint are gone."""
    lines = "".join(json.dumps(_plain(record)) + "\n" for record in records)
    write_atomically(RunPaths(run_dir).metrics, lines.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all; nan, which JSON lacks, becomes null."""
    write_atomically(path, (json.dumps(_plain(content), indent=1) + "\n").encode())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
