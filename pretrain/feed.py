"""A process's micro-batches up to a fault, which waits until all processes can end together.

In a backward pass processes wait for each other: if one left in the middle of a step, the others
would wait for it until their launcher, or a time limit of minutes, ended them without a word.
"""

from collections.abc import Iterator

import numpy as np
import torch

from pretrain.loader import Batch, Step

_BLANKS = 2  # batch norm wants more than one image


class Feed:
    """The batches of one step. After a fault they are blank, and the step must not count."""

    def __init__(self, step: Step, side: int, device: torch.device) -> None:
        self._step = step
        self._side = side
        self._device = device
        self.fault: Exception | None = None

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self._step.slots):
            yield self._next()

    def _next(self) -> Batch:
        if self.fault is None:
            try:
                return next(self._step.batches)
            except Exception as error:  # whatever it is, the others must hear of it
                self.fault = error
        images = torch.zeros(_BLANKS, 3, self._side, self._side, device=self._device)
        labels = torch.zeros(_BLANKS, dtype=torch.int64, device=self._device)
        return Batch(
            images.contiguous(memory_format=torch.channels_last),
            labels,
            np.zeros(_BLANKS, np.int64),
        )
