"""Which samples make up which step."""

from itertools import product

import numpy as np
import pytest

from pretrain.order import Plan, slot_seed, validation_slots

PLAN = Plan(samples=107, batch_size=16, micro_batch_size=4, seed=3)


def test_an_epoch_holds_every_sample_once() -> None:
    batches = PLAN.epoch_batches(epoch=2)
    assert sorted(np.concatenate(batches)) == list(range(107))
    assert len(batches) == PLAN.steps_per_epoch == 7
    assert {len(batch) for batch in batches} == {15, 16}


def test_epochs_have_different_orders() -> None:
    assert not np.array_equal(PLAN.permutation(0), PLAN.permutation(1))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_global_batches_do_not_depend_on_the_process_count(world: int) -> None:
    for batch in PLAN.epoch_batches(0):
        slots = PLAN.slots(batch, world)
        assert np.array_equal(np.concatenate(slots), batch)
        assert len(slots) % world == 0
        assert max(map(len, slots)) <= PLAN.micro_batch_size


def test_one_process_accumulates_the_slots_of_two() -> None:
    batch = np.arange(16)
    one, two = PLAN.slots(batch, 1), PLAN.slots(batch, 2)
    assert [slot.tolist() for slot in one] == [slot.tolist() for slot in two]


def test_no_slot_holds_a_single_sample_unless_told_to() -> None:
    for size, micro, world in product(range(2, 70), (2, 3, 4, 5, 8), (1, 2, 3, 8)):
        plan = Plan(samples=size, batch_size=size, micro_batch_size=micro, seed=0)
        slots = plan.slots(np.arange(size), world)
        assert np.array_equal(np.concatenate(slots), np.arange(size))
        assert len(slots) % world == 0
        assert max(map(len, slots)) == plan.largest_slot(world) <= max(micro, 4)
        assert size < 2 * world or min(map(len, slots)) >= 2, (size, micro, world)
    alone = Plan(samples=5, batch_size=5, micro_batch_size=1, seed=0)
    assert [len(slot) for slot in alone.slots(np.arange(5), 1)] == [1] * 5


def test_the_largest_slot_is_that_of_the_largest_step() -> None:
    plan = Plan(samples=33, batch_size=16, micro_batch_size=2, seed=0)  # three steps of eleven
    assert plan.largest_slot(1) == 3
    plan = Plan(samples=34, batch_size=16, micro_batch_size=2, seed=0)  # of twelve and eleven
    assert plan.largest_slot(1) == 3
    assert Plan(samples=32, batch_size=16, micro_batch_size=2, seed=0).largest_slot(1) == 2


def test_order_does_not_depend_on_numpys_generators() -> None:
    # Written down once: a change of this order makes every checkpoint resume wrongly.
    assert Plan(samples=8, batch_size=8, micro_batch_size=8, seed=0).permutation(0).tolist() == (
        [2, 0, 5, 7, 6, 3, 4, 1]
    )


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_validation_sees_every_sample_once(world: int) -> None:
    parts = [ids for rank in range(world) for ids in validation_slots(11, 4, rank, world)]
    assert sorted(np.concatenate(parts)) == list(range(11))


def test_slots_seed_torch_differently() -> None:
    seeds = {
        slot_seed(0, epoch, step, slot) for epoch in (0, 1) for step in (0, 1) for slot in (0, 1)
    }
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
