"""The parts of a grid file about machines: the resources of a task, and the cluster's settings."""

import re
from dataclasses import dataclass
from typing import Annotated

from micrograph.cli import UserError

# SLURM's formats, except a plain number: YAML reads 24:00:00 as 86400.
_TIME = re.compile(r"\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}")
_MEMORY = re.compile(r"\d+[KMGT]")
_EARLY = 60  # seconds by which SLURM may send a signal too early (man sbatch)
# Options of sbatch that launch sets, and the setting for each.
_OWN_OPTIONS = {
    **dict.fromkeys(("--time", "-t"), "resources: {time: …}"),
    **dict.fromkeys(("--nodes", "-N"), "resources: {nodes: …}"),
    **dict.fromkeys(("--array", "-a"), "launch.slurm's --only and --throttle"),
    "--signal": "slurm: {signal_seconds: …}",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """The resources of one task; None leaves the choice to the cluster."""

    gpus: Annotated[int, "GPUs per node; 0 trains on the CPU"] = 1
    nodes: Annotated[int, "number of nodes"] = 1
    cpus: Annotated[int | None, "cores per node"] = None
    memory: Annotated[str | None, "memory per node: 64G"] = None
    time: Annotated[str | None, 'time limit: "8:00:00" or "1-12"; then it is requeued'] = None

    def __post_init__(self) -> None:
        if self.gpus < 0 or self.nodes < 1 or (self.cpus is not None and self.cpus < 1):
            raise ValueError("resources: gpus must be at least 0, nodes and cpus at least 1")
        if self.memory is not None and not _MEMORY.fullmatch(self.memory):
            raise ValueError(f"memory {self.memory!r} must be like 64G")
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise ValueError(
                f'time {self.time!r} must be like "8:00:00" or "1-12" (days-hours), in quotes: '
                "YAML reads 8:00:00 as a number of seconds"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmSettings:
    """How jobs run on this cluster."""

    setup: Annotated[str, "shell lines before the task: module load, source activate"] = ""
    container: Annotated[str, "prefix of each command: apptainer exec --nv image.sif"] = ""
    options: Annotated[tuple[str, ...], "more options of sbatch: --partition=gpu"] = ()
    signal_seconds: Annotated[int, "seconds before the time limit at which a task saves"] = 120

    def __post_init__(self) -> None:
        if not 1 <= self.signal_seconds <= 65535:
            raise ValueError(f"signal_seconds must be from 1 to 65535, not {self.signal_seconds}")
        for option in self.options:
            name = re.split(r"[=\s]", option)[0]
            name = name if name.startswith("--") else name[:2]  # -t10
            if name in _OWN_OPTIONS:
                raise ValueError(f"remove {option!r} from options; use {_OWN_OPTIONS[name]}")


def check_time(resources: Resources, slurm: SlurmSettings) -> None:
    """Raise `UserError` if a task would save as soon as it starts, and be requeued for ever."""
    if resources.time is None:
        return
    reserved = slurm.signal_seconds + _EARLY
    if _seconds(resources.time) <= reserved:
        raise UserError(
            f"time {resources.time!r} is too short: the signal to save may come {reserved} s "
            f"before the end (signal_seconds {slurm.signal_seconds}, and SLURM's {_EARLY} s), so "
            'the task would be requeued for ever; give it more time ("10:00" is ten minutes)'
        )


def _seconds(time: str) -> int:
    """Parse minutes:seconds, hours:minutes:seconds or days-hours[:minutes[:seconds]]."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:
        hours, minutes, seconds = [0, *parts][-3:]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
