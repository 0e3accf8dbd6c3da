"""Class balancing by sampling and by weights."""

import numpy as np
import pytest

from pretrain.loading.class_balance import balanced_draws, class_quotas, class_weights
from pretrain.loading.sample_order import EpochSampler

LABELS = np.repeat([0, 1, 2], [12, 3, 1])


@pytest.mark.parametrize(("power", "expected"), [(0.0, [12, 3, 1]), (1.0, [6, 5, 5])])
def test_quotas_keep_the_length_of_an_epoch(power: float, expected: list[int]) -> None:
    assert class_quotas(LABELS, power).tolist() == expected  # 16 draws; 16 / 3 rounded to 6, 5, 5


def test_the_square_root_lies_between() -> None:
    # sqrt(12), sqrt(3), 1 are 3.46, 1.73, 1: of 16 draws 8.95, 4.47, 2.58.
    assert class_quotas(LABELS, 0.5).tolist() == [9, 4, 3]


def test_every_image_of_a_class_comes_equally_often() -> None:
    epochs = [balanced_draws(LABELS, 1.0, seed=5, epoch=epoch) % 16 for epoch in range(7)]
    for after in range(1, 8):
        counts = np.bincount(np.concatenate(epochs[:after]), minlength=16)
        for label in range(3):
            of_class = counts[label == LABELS]
            assert of_class.max() - of_class.min() <= 1
    assert counts[-1] == 7 * 5  # the single image of the last class: five times in each epoch


def test_repeats_within_an_epoch_have_different_ids() -> None:
    draws = balanced_draws(LABELS, 1.0, seed=5, epoch=0)
    assert len(set(draws.tolist())) == 16
    assert sorted(draws[-5:].tolist()) == [15, 31, 47, 63, 79]  # image 15, its first to fifth time


def test_the_sampler_balances_as_a_function_of_seed_and_epoch() -> None:
    sampler = EpochSampler(
        samples=16, batch_size=4, micro_batch_size=2, seed=5, labels=LABELS, balance=1.0
    )
    drawn = np.concatenate(sampler.epoch_batches(3))
    assert np.bincount(LABELS[drawn % 16]).tolist() == [6, 5, 5]
    assert np.array_equal(drawn, np.concatenate(sampler.epoch_batches(3)))
    assert not np.array_equal(drawn, np.concatenate(sampler.epoch_batches(4)))
    assert not np.array_equal(np.sort(drawn), drawn)  # shuffled, not class by class


def test_weights_have_mean_one_over_the_images() -> None:
    weights = class_weights(LABELS, 4, 1.0)
    assert weights[LABELS].mean() == pytest.approx(1.0)
    # Each class's images weigh as much together as any other's: 16 / 3.
    assert (weights * [12, 3, 1, 0]).tolist() == pytest.approx([16 / 3] * 3 + [0.0])
