"""Stop requests, as clusters send them before a kill: noted, and obeyed at a safe point.

Imports no torch.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from micrograph.cli import EXIT_INTERRUPTED


class Interruption:
    """Handles SIGTERM and SIGUSR1.

    A single process that has nothing to save yet exits at once. Otherwise the signals only set a
    flag; the training loop saves and exits, in all processes together.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = int(os.environ.get("WORLD_SIZE", "1")) > 1  # others would wait for it
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """Only set the flag from now on: there is something to save."""
        self._deferred = True

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Exit at once inside, without other processes: for work that can be repeated."""
        deferred, self._deferred = self._deferred, False
        try:
            if self.requested:
                sys.exit(EXIT_INTERRUPTED)
            yield
        finally:
            self._deferred = deferred

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # forked workers inherit the handler
            return
        self.requested = True
        if not self._deferred:
            sys.exit(EXIT_INTERRUPTED)
