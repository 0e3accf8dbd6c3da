"""Steps that are not finite: undone and counted; too many in a row end a run or roll it back."""

from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

MAX_SKIPPED_STEPS = 10  # in a row, of fine-tuning and adaptation; pre-training has a setting

P = TypeVar("P")


def count_skips(progress: P, *, finite: bool) -> P:
    """`progress`, a dataclass with `skipped_steps` and `skipped_in_a_row`, after one more step."""
    counts: Any = progress
    if finite:
        return replace(counts, skipped_in_a_row=0)  # type: ignore[no-any-return]
    return replace(  # type: ignore[no-any-return]
        counts,
        skipped_steps=counts.skipped_steps + 1,
        skipped_in_a_row=counts.skipped_in_a_row + 1,
    )


class BufferSnapshot:
    """A model's running statistics, to restore them after the forward pass of a skipped step.

    Copied in one kernel per dtype: hundreds of small ones would take a millisecond per step.
    """

    def __init__(self, model: nn.Module) -> None:
        by_type: dict[torch.dtype, list[torch.Tensor]] = {}
        for buffer in model.buffers():
            by_type.setdefault(buffer.dtype, []).append(buffer)
        self._pairs = [(live, [b.clone() for b in live]) for live in by_type.values()]

    def save(self) -> None:
        """Take a snapshot, replacing the last one."""
        for live, saved in self._pairs:
            torch._foreach_copy_(saved, live)

    def restore(self) -> None:
        """Give the model the buffers of the last snapshot."""
        for live, saved in self._pairs:
            torch._foreach_copy_(live, saved)
