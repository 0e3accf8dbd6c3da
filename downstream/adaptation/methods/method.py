"""What a method adds to a step on the source: the interface, and what several methods need."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from downstream.domains.batches import Stream
from downstream.domains.tile_plan import IGNORE

StepMetrics = dict[str, float]  # by name, as in metrics.jsonl


@dataclass(frozen=True, slots=True)
class Outputs:
    """Logits `(N, C, H, W)` float32 of one domain, from the main and any auxiliary head."""

    main: torch.Tensor
    aux: torch.Tensor | None

    def levels(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The logits by head: `main`, and `aux` if there is one."""
        yield "main", self.main
        if self.aux is not None:
            yield "aux", self.aux


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """The target images of a step, and the student to train on them."""

    step: int
    source: Outputs  # the student's, of the source images of this step
    images: torch.Tensor  # (N, 3, H, W) uint8, augmented
    counted: torch.Tensor  # (N, H, W) int64: IGNORE where a pixel must not count
    # The student's outputs for normalised target images; the stream seeds dropout and the like.
    predict: Callable[[torch.Tensor, Stream], Outputs]


class TargetMethod(Protocol):
    """A method's part of the training step, with the state that it needs to resume."""

    def backward(self, batch: TargetBatch) -> StepMetrics:
        """Accumulate the gradients of the method's losses; return what was measured."""

    def update(self, student: nn.Module, step: int) -> None:
        """Follow a step of the student, whose gradients were finite."""

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""


def cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over the pixels that are not IGNORE; 0 without any.

    `logits` `(N, C, H, W)`, `target` `(N, H, W)` int64; `weight` `(N,)` weights the images. For two
    classes with logits `(0, z)` this is the binary cross entropy of z.
    """
    losses = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    if weight is not None:
        losses = losses * weight[:, None, None]
    return losses.sum() / (target != IGNORE).sum().clamp(min=1)


def class_fractions(prefix: str, labels: torch.Tensor, classes: int) -> StepMetrics:
    """The fraction of each class among labels `(n,)`, by `prefix` and class index."""
    counts = torch.bincount(labels.flatten().long(), minlength=classes)
    fractions = (counts / counts.sum().clamp(min=1)).tolist()
    return {f"{prefix}{index}": fraction for index, fraction in enumerate(fractions)}
