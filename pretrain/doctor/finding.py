"""What the doctor says: a finding, and the place that it is about."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check found. A `fail` would end the run, a `warn` would slow or endanger it."""

    check: str
    found: str
    level: Level = "ok"
    remedy: str = ""  # what to do, unless all is well
    place: str = ""  # which process, where there are several
    numbers: Mapping[str, float] = field(default_factory=dict)  # for programs: what `found` says


@dataclass(frozen=True, slots=True)
class Place:
    """This process among those of the run, as its launcher told the environment."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    host: str


def find_place() -> Place:
    """Read the environment that torchrun, accelerate launch and SLURM scripts set."""

    def number(name: str, default: int) -> int:
        value = os.environ.get(name, "")
        return int(value) if value.isdecimal() else default

    world = number("WORLD_SIZE", 1)
    local_world = number("LOCAL_WORLD_SIZE", world)
    rank = number("RANK", 0)
    local_rank = number("LOCAL_RANK", rank % max(1, local_world))
    return Place(rank, world, local_rank, local_world, socket.gethostname())
