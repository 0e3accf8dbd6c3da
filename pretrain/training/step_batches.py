"""The micro-batches of a step in one process; an error is kept until all processes can end.

In a backward pass processes wait for each other: if one left in the middle of a step, the others
would hang until their launcher or a timeout ended them without a message.
"""

from collections.abc import Iterator

import numpy as np
import torch

from pretrain.loading.loader import Batch, Step

_BLANKS = 2  # batch norm needs more than one image


class StepBatches:
    """The batches of one step; after a `fault` they are blank, and the step must not count."""

    def __init__(self, step: Step, side: int, device: torch.device) -> None:
        self._step = step
        self._side = side
        self._device = device
        self.fault: Exception | None = None

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self._step.micro_batches):
            yield self._next()

    def _next(self) -> Batch:
        if self.fault is None:
            try:
                return next(self._step.batches)
            except Exception as error:  # of any kind: the other processes must end too
                self.fault = error
        images = torch.zeros(_BLANKS, 3, self._side, self._side, device=self._device)
        labels = torch.zeros(_BLANKS, dtype=torch.int64, device=self._device)
        return Batch(
            images.contiguous(memory_format=torch.channels_last),
            labels,
            np.zeros(_BLANKS, np.int64),
        )
