"""The files in the folder of every run. Imports no torch.

config.yaml     the resolved settings; `--config` repeats the run with them
metrics.jsonl   one line per epoch, or per window of steps
status.json     the state of the run (pretrain.runs.status)
checkpoints/    to resume from
.lock           held by the process that trains
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micrograph.atomic import write_atomically, writing_to
from micrograph.locks import lock_folder
from micrograph.settings import dump_config


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Paths in a run's folder, the same for all trainers."""

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


def write_config(folder: Path, config: Any) -> None:
    """Write the settings, after all files that describe the data: they mark the folder as a run.

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
