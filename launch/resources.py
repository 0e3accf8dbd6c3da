"""What a task needs and how its cluster is spoken to; both are parts of a grid file."""

import re
from dataclasses import dataclass
from typing import Annotated

# SLURM's own spellings, but for a plain number: YAML reads 24:00:00 as 86400.
_TIME = re.compile(r"\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}")
_MEMORY = re.compile(r"\d+[KMGT]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Of one task; what is None is left to the cluster."""

    gpus: Annotated[int, "per node; 0 trains on the CPU"] = 1
    nodes: Annotated[int, "one process of the launcher on each"] = 1
    cpus: Annotated[int | None, "cores per node"] = None
    memory: Annotated[str | None, "per node: 64G"] = None
    time: Annotated[str | None, 'at most: "8:00:00" or "1-12"; it goes on after a requeue'] = None

    def __post_init__(self) -> None:
        if self.gpus < 0 or self.nodes < 1 or (self.cpus is not None and self.cpus < 1):
            raise ValueError("resources: gpus at least 0, nodes and cpus at least 1")
        if self.memory is not None and not _MEMORY.fullmatch(self.memory):
            raise ValueError(f"memory {self.memory!r} must be like 64G")
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise ValueError(
                f'time {self.time!r} must be like "8:00:00" or "1-12" (days-hours), in quotes: '
                "YAML reads 8:00:00 as a number of seconds"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmSettings:
    """Of the cluster."""

    prelude: Annotated[
        str, "shell lines before the task: module load, source .venv/bin/activate"
    ] = ""
    container: Annotated[str, "what a command is prefixed with: apptainer exec --nv image.sif"] = ""
    options: Annotated[tuple[str, ...], "further options of sbatch: --partition=gpu"] = ()
    signal_seconds: Annotated[int, "how long before the time limit a task is told to save"] = 120
