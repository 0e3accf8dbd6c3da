"""What a check of the doctor reports, and the process that it ran in."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of a check. A `fail` would stop the run, a `warn` slow it or put it at risk."""

    found: str
    level: Level = "ok"
    remedy: str = ""
    check: str = ""  # its name; the doctor fills in that of the check that found it
    place: str = ""  # which process, if there are several
    numbers: Mapping[str, float] = field(default_factory=dict)  # values in `found`, for programs


def ok(found: str, check: str = "") -> Finding:
    """Nothing stands in the way."""
    return Finding(found=found, check=check)


def warn(found: str, remedy: str, check: str = "") -> Finding:
    """The run would be slow, or at risk."""
    return Finding(found=found, level="warn", remedy=remedy, check=check)


def fail(found: str, remedy: str, check: str = "") -> Finding:
    """The run would stop."""
    return Finding(found=found, level="fail", remedy=remedy, check=check)


@dataclass(frozen=True, slots=True)
class Place:
    """This process among those of the run."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    host: str


def find_place() -> Place:
    """Read the environment variables that torchrun, accelerate launch and SLURM scripts set."""

    def number(name: str, default: int) -> int:
        value = os.environ.get(name, "")
        return int(value) if value.isdecimal() else default

    world = number("WORLD_SIZE", 1)
    local_world = number("LOCAL_WORLD_SIZE", world)
    rank = number("RANK", 0)
    local_rank = number("LOCAL_RANK", rank % max(1, local_world))
    return Place(rank, world, local_rank, local_world, socket.gethostname())
