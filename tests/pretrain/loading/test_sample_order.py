"""Which samples make up which step."""

from itertools import product

import numpy as np
import pytest

from pretrain.loading.sample_order import EpochSampler, micro_batch_seed, validation_micro_batches

SAMPLER = EpochSampler(samples=107, batch_size=16, micro_batch_size=4, seed=3)


def test_an_epoch_holds_every_sample_once() -> None:
    batches = SAMPLER.epoch_batches(epoch=2)
    assert sorted(np.concatenate(batches)) == list(range(107))
    assert len(batches) == SAMPLER.steps_per_epoch == 7
    assert {len(batch) for batch in batches} == {15, 16}


def test_epochs_have_different_orders() -> None:
    assert not np.array_equal(SAMPLER.permutation(0), SAMPLER.permutation(1))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_global_batches_do_not_depend_on_the_process_count(world: int) -> None:
    for batch in SAMPLER.epoch_batches(0):
        slots = SAMPLER.micro_batches(batch, world)
        assert np.array_equal(np.concatenate(slots), batch)
        assert len(slots) % world == 0
        assert max(map(len, slots)) <= SAMPLER.micro_batch_size


def test_one_process_accumulates_the_slots_of_two() -> None:
    batch = np.arange(16)
    one, two = SAMPLER.micro_batches(batch, 1), SAMPLER.micro_batches(batch, 2)
    assert [slot.tolist() for slot in one] == [slot.tolist() for slot in two]


def test_no_slot_holds_a_single_sample_unless_told_to() -> None:
    for size, micro, world in product(range(2, 70), (2, 3, 4, 5, 8), (1, 2, 3, 8)):
        sampler = EpochSampler(samples=size, batch_size=size, micro_batch_size=micro, seed=0)
        slots = sampler.micro_batches(np.arange(size), world)
        assert np.array_equal(np.concatenate(slots), np.arange(size))
        assert len(slots) % world == 0
        assert max(map(len, slots)) == sampler.largest_micro_batch(world) <= max(micro, 4)
        assert size < 2 * world or min(map(len, slots)) >= 2, (size, micro, world)
    alone = EpochSampler(samples=5, batch_size=5, micro_batch_size=1, seed=0)
    assert [len(slot) for slot in alone.micro_batches(np.arange(5), 1)] == [1] * 5


def test_the_largest_slot_is_that_of_the_largest_step() -> None:
    sampler = EpochSampler(
        samples=33, batch_size=16, micro_batch_size=2, seed=0
    )  # three steps of eleven
    assert sampler.largest_micro_batch(1) == 3
    sampler = EpochSampler(
        samples=34, batch_size=16, micro_batch_size=2, seed=0
    )  # of twelve and eleven
    assert sampler.largest_micro_batch(1) == 3
    assert (
        EpochSampler(samples=32, batch_size=16, micro_batch_size=2, seed=0).largest_micro_batch(1)
        == 2
    )


def test_order_does_not_depend_on_numpys_generators() -> None:
    # Written down once: a change of this order makes every checkpoint resume wrongly.
    assert EpochSampler(samples=8, batch_size=8, micro_batch_size=8, seed=0).permutation(
        0
    ).tolist() == ([2, 0, 5, 7, 6, 3, 4, 1])


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_validation_sees_every_sample_once(world: int) -> None:
    parts = [ids for rank in range(world) for ids in validation_micro_batches(11, 4, rank, world)]
    assert sorted(np.concatenate(parts)) == list(range(11))


def test_slots_seed_torch_differently() -> None:
    seeds = {
        micro_batch_seed(0, epoch, step, slot)
        for epoch in (0, 1)
        for step in (0, 1)
        for slot in (0, 1)
    }
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
