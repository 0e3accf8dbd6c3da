"""The samples of each step."""

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


def test_epochs_differ_in_their_order() -> None:
    assert not np.array_equal(SAMPLER.permutation(0), SAMPLER.permutation(1))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_global_batches_do_not_depend_on_the_process_count(world: int) -> None:
    for batch in SAMPLER.epoch_batches(0):
        micro_batches = SAMPLER.micro_batches(batch, world)
        assert np.array_equal(np.concatenate(micro_batches), batch)
        assert len(micro_batches) % world == 0
        assert max(map(len, micro_batches)) <= SAMPLER.micro_batch_size


def test_one_process_accumulates_the_micro_batches_of_two() -> None:
    batch = np.arange(16)
    one, two = SAMPLER.micro_batches(batch, 1), SAMPLER.micro_batches(batch, 2)
    assert [part.tolist() for part in one] == [part.tolist() for part in two]


def test_no_micro_batch_has_a_single_sample_unless_configured() -> None:
    for size, micro, world in product(range(2, 70), (2, 3, 4, 5, 8), (1, 2, 3, 8)):
        sampler = EpochSampler(samples=size, batch_size=size, micro_batch_size=micro, seed=0)
        micro_batches = sampler.micro_batches(np.arange(size), world)
        assert np.array_equal(np.concatenate(micro_batches), np.arange(size))
        assert len(micro_batches) % world == 0
        assert max(map(len, micro_batches)) == sampler.largest_micro_batch(world) <= max(micro, 4)
        assert size < 2 * world or min(map(len, micro_batches)) >= 2, (size, micro, world)
    alone = EpochSampler(samples=5, batch_size=5, micro_batch_size=1, seed=0)
    assert [len(part) for part in alone.micro_batches(np.arange(5), 1)] == [1] * 5


def test_order_does_not_depend_on_numpys_generators() -> None:
    # Written down once: a change of this order makes every checkpoint resume wrongly.
    sampler = EpochSampler(samples=8, batch_size=8, micro_batch_size=8, seed=0)
    assert sampler.permutation(0).tolist() == [2, 0, 5, 7, 6, 3, 4, 1]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_validation_sees_every_sample_once(world: int) -> None:
    parts = [ids for rank in range(world) for ids in validation_micro_batches(11, 4, rank, world)]
    assert sorted(np.concatenate(parts)) == list(range(11))


def test_each_micro_batch_has_its_own_seed() -> None:
    seeds = {micro_batch_seed(0, *place) for place in product((0, 1), repeat=3)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
