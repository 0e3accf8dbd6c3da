"""Shards become batches: the order of order.py, the draws of augment.py, pixels made ahead.

Which samples come, in which order, and what augmentation each gets are decided here, so that
nothing of it hangs on the state of a reader. The pixels are made by DALI on a GPU (dali_pixels.py)
and by a pool of threads on the CPU (host_pixels.py), some batches ahead of their use.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pretrain.augment import Draws, draw_training, draw_validation
from pretrain.config import TrainConfig
from pretrain.decoding import DecodeName
from pretrain.host_pixels import HostPixels
from pretrain.order import Ids, Plan, validation_slots
from pretrain.resident import Arena
from pretrain.send import send
from pretrain.store import ShardSplit
from shards.schema import Index


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples ready for the network."""

    images: torch.Tensor  # (N, 3, H, W) float32, channels last, normalised by the manifest's rule
    labels: torch.Tensor  # (N,) int64
    ids: Ids  # (N,) draws (order.py): positions in the split's index, modulo its length


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step's share of this process."""

    number: int  # within the epoch
    samples: int  # of the global batch, over all processes
    slots: int  # how many micro-batches this process has
    batches: Iterator[Batch]


class Loader:
    """Serves one process its part of a split. Not for `accelerator.prepare`: it shards itself."""

    def __init__(
        self,
        data: ShardSplit,
        config: TrainConfig,
        *,
        micro_batch_size: int,
        device: torch.device,
        threads: int,
        decode: DecodeName = "cpu",
        arena: Arena | None = None,
    ) -> None:
        """`decode` says how, on a GPU; `arena` is where decoded images stay, if they are to."""
        self._data = data
        self._config = config
        self._device = device
        if device.type == "cuda":
            from pretrain.dali_pixels import DaliPixels

            self._pixels: HostPixels | DaliPixels = DaliPixels(
                data,
                config,
                micro_batch_size,
                threads,
                device=device,
                decode=decode,
                arena=arena,
            )
        else:
            self._pixels = HostPixels(data, config, threads, arena)

    def steps(
        self, plan: Plan, epoch: int, first_step: int, rank: int, world: int
    ) -> Iterator[Step]:
        """The steps of an epoch from `first_step` on, each with this process's micro-batches."""
        batches = plan.epoch_batches(epoch)[first_step:]
        slots = [plan.slots(batch, world)[rank::world] for batch in batches]
        flat = [ids for step_slots in slots for ids in step_slots]
        stream = self._stream(flat, epoch)
        for number, (batch, step_slots) in enumerate(zip(batches, slots, strict=True), first_step):
            yield Step(number, len(batch), len(step_slots), _take(stream, len(step_slots)))

    def validation(self, micro_batch_size: int, rank: int, world: int) -> Iterator[Batch]:
        """This process's part of the split, centre crops, in a fixed order."""
        slots = validation_slots(len(self._data), micro_batch_size, rank, world)
        return self._stream(slots, None)

    def _stream(self, slots: Sequence[Ids], epoch: int | None) -> Iterator[Batch]:
        work = ((ids % len(self._data), self._draws(ids, epoch)) for ids in slots)
        for ids, images in zip(slots, self._pixels.batches(work), strict=True):
            labels = self._rows(ids)["label"].astype(np.int64)
            yield Batch(images, send(labels, self._device), ids)

    def _draws(self, ids: Ids, epoch: int | None) -> Draws:
        rows = self._rows(ids)
        if epoch is None:
            return draw_validation(self._config, rows["height"], rows["width"])
        return draw_training(self._config, epoch, ids, rows["height"], rows["width"])

    def _rows(self, ids: Ids) -> Index:
        return self._data.index[ids % len(self._data)]


def _take(stream: Iterator[Batch], count: int) -> Iterator[Batch]:
    for _ in range(count):
        yield next(stream)
