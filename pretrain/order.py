"""Which samples make up which step: a pure function of (seed, epoch, step), for any process count.

An epoch is a permutation of the training set, cut into steps whose global batches are as equal as
possible (so there is no small last batch for batch norm to trip over). A global batch is cut into
slots of `micro_batch_size` samples or fewer; process `rank` takes every `world`-th slot. Each
sample comes exactly once an epoch, and the slots of one process accumulating are those of several.

With `balance` an epoch has as many draws, but classes share them more evenly (balance.py). A draw
is then a sample id, plus the number of samples for each time that it has come in this epoch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pretrain.balance import balanced_draws
from pretrain.philox import philox, uniforms

STREAM_ORDER, STREAM_TORCH = 0, 2  # augment.py has 1, mixing.py 3, balance.py 4

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How the samples of an epoch are dealt out."""

    samples: int
    batch_size: int  # global
    micro_batch_size: int  # per process
    seed: int
    labels: Ids | None = None  # of all samples; only balancing wants them
    balance: float = 0.0  # power of the inverse class frequency

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.samples // self.batch_size)

    def permutation(self, epoch: int) -> Ids:
        """All draws in the order of this epoch."""
        ids = np.arange(self.samples)
        if self.balance and self.labels is not None:
            ids = balanced_draws(self.labels, self.balance, self.seed, epoch)
        keys = uniforms(self.seed, STREAM_ORDER, epoch, ids, 2)
        # Two keys of 32 bits: ties of one alone would be likely beyond 65,000 samples.
        return ids[np.lexsort((keys[:, 1], keys[:, 0]))]

    def epoch_batches(self, epoch: int) -> list[Ids]:
        """The global batch of every step of an epoch."""
        return np.array_split(self.permutation(epoch), self.steps_per_epoch)

    def slots(self, batch: Ids, world: int) -> list[Ids]:
        """A global batch cut for `world` processes; slot i belongs to process i % world.

        Every process gets the same number of slots. They differ in size by one at most; only a
        batch smaller than `world` leaves slots empty. None holds a single sample, of which batch
        norm can make no statistics, unless that is what `micro_batch_size` says: rather than
        that, slots of two or three get up to four.
        """
        rounds = -(-len(batch) // (self.micro_batch_size * world))
        if self.micro_batch_size > 1:
            rounds = min(rounds, len(batch) // (2 * world))
        return np.array_split(batch, max(1, rounds) * world)

    def largest_slot(self, world: int) -> int:
        """Samples in the largest slot of any epoch."""
        steps = self.steps_per_epoch
        sizes = {self.samples // steps, -(-self.samples // steps)}  # of the batches
        return max(len(slot) for size in sizes for slot in self.slots(np.arange(size), world))


def slot_seed(seed: int, epoch: int, step: int, slot: int) -> int:
    """Seed of torch's generator for one slot, so that dropout too is a function of position."""
    counter = np.array([[slot, step, epoch, STREAM_TORCH]])
    high, low = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))[0, :2].tolist()
    return int(high) << 31 ^ int(low)  # torch takes 63 bits


def validation_slots(samples: int, micro_batch_size: int, rank: int, world: int) -> list[Ids]:
    """This process's part of the validation set; over all processes each sample comes once."""
    mine = np.arange(rank, samples, world)
    return np.array_split(mine, -(-len(mine) // micro_batch_size)) if len(mine) else []
