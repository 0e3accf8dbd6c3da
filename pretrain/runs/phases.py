"""The phases of a run, announced to listeners: what tests use to interrupt a run at a known point.

Announcing without a listener costs less than a microsecond. Imports no torch.
"""

from collections.abc import Callable
from typing import Literal

Phase = Literal[
    "start", "read_data", "build", "plan", "epoch", "step", "validate", "record", "stop", "end"
]

_listeners: list[Callable[[Phase], None]] = []


def announce(phase: Phase) -> None:
    """Tell all listeners that `phase` begins."""
    for listener in _listeners:
        listener(phase)


def listen(listener: Callable[[Phase], None]) -> None:
    """Call `listener` at the beginning of every phase from now on."""
    _listeners.append(listener)
