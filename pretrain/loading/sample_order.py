"""The samples of each step: a pure function of (seed, epoch, step), for any number of processes.

An epoch is a permutation of the training set, split into global batches of nearly equal size, so
there is no small last batch to upset batch norm. A global batch is split into micro-batches of at
most `micro_batch_size` samples; process `rank` takes every `world`-th one. Each sample comes
exactly once per epoch; one process that accumulates gradients sees the micro-batches of several.

With `balance`, an epoch has as many samples, but classes share them more evenly
(class_balance.py). An id is then a sample's position plus `samples` for each earlier appearance in
the same epoch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pretrain.loading.class_balance import balanced_draws
from pretrain.loading.philox import Stream, philox, uniforms

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochSampler:
    """Orders the samples of each epoch and splits them into global batches and micro-batches."""

    samples: int
    batch_size: int  # global
    micro_batch_size: int  # per process
    seed: int
    labels: Ids | None = None  # of all samples; used by balancing only
    balance: float = 0.0  # power of the inverse class frequency

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.samples // self.batch_size)

    def permutation(self, epoch: int) -> Ids:
        """All ids in the order of this epoch."""
        ids = np.arange(self.samples)
        if self.balance and self.labels is not None:
            ids = balanced_draws(self.labels, self.balance, self.seed, epoch)
        keys = uniforms(self.seed, Stream.ORDER, epoch, ids, 2)
        # Two keys of 32 bits: with one, ties become likely beyond 65,000 samples.
        return ids[np.lexsort((keys[:, 1], keys[:, 0]))]

    def epoch_batches(self, epoch: int) -> list[Ids]:
        """The global batch of every step of an epoch."""
        return np.array_split(self.permutation(epoch), self.steps_per_epoch)

    def micro_batches(self, batch: Ids, world: int) -> list[Ids]:
        """Split a global batch for `world` processes; micro-batch i belongs to process i % world.

        Every process gets the same number of micro-batches. Their sizes differ by at most one; only
        a batch smaller than `world` leaves some empty. Batch norm needs two samples, so a
        micro-batch holds a single one only if `micro_batch_size` is 1; sizes of two or three grow
        up to four to avoid it.
        """
        rounds = -(-len(batch) // (self.micro_batch_size * world))
        if self.micro_batch_size > 1:
            rounds = min(rounds, len(batch) // (2 * world))
        return np.array_split(batch, max(1, rounds) * world)

    def largest_micro_batch(self, world: int) -> int:
        """The number of samples in the largest micro-batch of any epoch."""
        steps = self.steps_per_epoch
        sizes = {self.samples // steps, -(-self.samples // steps)}  # of the batches
        return max(
            len(micro_batch)
            for size in sizes
            for micro_batch in self.micro_batches(np.arange(size), world)
        )


def micro_batch_seed(seed: int, epoch: int, step: int, number: int) -> int:
    """The seed of torch's generator for one micro-batch: dropout depends on its position only."""
    counter = np.array([[number, step, epoch, Stream.TORCH]])
    high, low = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))[0, :2].tolist()
    return int(high) << 31 ^ int(low)  # torch takes 63 bits


def validation_micro_batches(
    samples: int, micro_batch_size: int, rank: int, world: int
) -> list[Ids]:
    """This process's part of the validation set; over all processes, each sample comes once."""
    mine = np.arange(rank, samples, world)
    return np.array_split(mine, -(-len(mine) // micro_batch_size)) if len(mine) else []
