"""Intervals and paired differences, against values worked out by hand or by theory."""

import math

import numpy as np
import pandas as pd
import pytest

from micrograph.confidence_intervals import (
    bootstrap_mean,
    bootstrap_ratio,
    paired_difference,
    pooled_std,
    range_coverage,
    student_interval,
)


def test_student_interval_is_the_textbooks() -> None:
    found = student_interval(np.array([0.1, 0.2, 0.0]))
    # 0.1 -+ 4.303 * 0.1 / sqrt(3)
    assert (found.low, found.high) == pytest.approx((-0.1484, 0.3484), abs=1e-4)
    assert (found.method, found.n) == ("Student's t", 3)
    assert math.isnan(student_interval(np.array([0.1])).low)


def test_the_bootstrap_of_three_values_is_their_range() -> None:
    found = bootstrap_mean([np.array([0.1, 0.2, 0.0])])
    assert (found.low, found.high) == pytest.approx((0, 0.2))
    assert (found.method, found.n) == ("percentile bootstrap", 3)
    assert range_coverage(3) == 0.75


def test_the_bootstrap_has_the_width_that_theory_says() -> None:
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap_mean([values])
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def test_images_that_move_together_widen_the_interval() -> None:
    # All variance is between images: 8 runs of the same 4 images are 4 values, not 32.
    by_image = np.tile(np.array([0.0, 0.1, 0.2, 0.3]), (8, 1))
    crossed, images, flat = (bootstrap_mean([v]) for v in (by_image, by_image[0], by_image.ravel()))
    assert (crossed.low, crossed.high) == pytest.approx((images.low, images.high), abs=0.02)
    assert crossed.high - crossed.low > 2 * (flat.high - flat.low)


def test_a_ratio_is_resampled_alike_above_and_below() -> None:
    whole = np.array([[0.08], [0.04]])
    found = bootstrap_ratio(np.array([[0.02], [0.02]]), whole)
    assert (found.low, found.high) == pytest.approx((1 / 4, 1 / 2))
    exact = bootstrap_ratio(whole / 2, whole)
    assert (exact.low, exact.high) == pytest.approx((0.5, 0.5))


def test_strata_count_equally() -> None:
    strata = [np.full(2, 0.1), np.full(4, 0.3)]
    found = paired_difference(strata, [v[:, None] for v in strata])
    assert (found.mean, found.pairs, found.wins, found.images) == (pytest.approx(0.2), 6, 6, 2)
    assert math.isnan(found.student.low)


def test_pooled_std_is_that_within_groups() -> None:
    # Folds lie 0.2 apart, seeds 0.02.
    values, fold, seed = [0.5, 0.52, 0.7, 0.72], pd.Series([0, 0, 1, 1]), pd.Series([0, 1, 0, 1])
    assert pooled_std(pd.Series(values), by=seed) == pytest.approx(0.2 / math.sqrt(2))
    assert pooled_std(pd.Series(values), by=fold) == pytest.approx(0.02 / math.sqrt(2))
    assert math.isnan(pooled_std(pd.Series([0.5]), by=pd.Series([0])))
