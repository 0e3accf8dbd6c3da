"""What a task needs and how its cluster is spoken to; both are parts of a grid file."""

import re
from dataclasses import dataclass
from typing import Annotated

from shards.cli import UserError

# SLURM's own spellings, but for a plain number: YAML reads 24:00:00 as 86400.
_TIME = re.compile(r"\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}")
_MEMORY = re.compile(r"\d+[KMGT]")
_EARLY = 60  # seconds by which SLURM may send a signal before it was asked to (man sbatch)
# Options of sbatch that a task's scripts need as they are, and what sets them.
_TAKEN = {
    **dict.fromkeys(("--time", "-t"), "resources: {time: …}"),
    **dict.fromkeys(("--nodes", "-N"), "resources: {nodes: …}"),
    **dict.fromkeys(("--array", "-a"), "launch.slurm's --only and --throttle"),
    "--signal": "slurm: {signal_seconds: …}",
}


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

    setup: Annotated[str, "shell lines before the task: module load, source .venv/bin/activate"] = (
        ""
    )
    container: Annotated[str, "what a command is prefixed with: apptainer exec --nv image.sif"] = ""
    options: Annotated[tuple[str, ...], "further options of sbatch: --partition=gpu"] = ()
    signal_seconds: Annotated[int, "how long before the time limit a task is told to save"] = 120

    def __post_init__(self) -> None:
        if not 1 <= self.signal_seconds <= 65535:
            raise ValueError(f"signal_seconds must be from 1 to 65535, not {self.signal_seconds}")
        for option in self.options:
            name = re.split(r"[=\s]", option)[0]
            name = name if name.startswith("--") else name[:2]  # -t10
            if name in _TAKEN:
                raise ValueError(f"leave {option!r} out of options; {_TAKEN[name]} sets it")


def check_time(resources: Resources, slurm: SlurmSettings) -> None:
    """Raise `UserError` where a task would be told to save as soon as it starts, for ever."""
    if resources.time is None:
        return
    told = slurm.signal_seconds + _EARLY
    if _seconds(resources.time) <= told:
        raise UserError(
            f"a task of time {resources.time!r} is told to save {told} s before its end (slurm: "
            f"{{signal_seconds: {slurm.signal_seconds}}}, and SLURM up to {_EARLY} s before that), "
            'so it would do nothing and be requeued for ever; give it more time ("10:00" is ten '
            "minutes)"
        )


def _seconds(time: str) -> int:
    """Of SLURM's minutes:seconds, hours:minutes:seconds or days-hours[:minutes[:seconds]]."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:
        hours, minutes, seconds = [0, *parts][-3:]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
