"""The out-of-distribution limit: widened by few images, not by one outlier of many."""

import numpy as np
import pytest

from downstream.reliability.out_of_distribution import ood_limit


def false_warnings(count: int, scatter: float, trials: int = 1500) -> float:
    """The share of new images, alike to `count` labelled ones, that lie beyond the limit."""
    rng = np.random.default_rng(0)
    scores = np.exp(rng.normal(0, scatter, (trials, count + 1)))
    return float(np.mean([row[-1] > ood_limit(row[:-1]) for row in scores]))


@pytest.mark.parametrize("count", [2, 3, 10])
def test_few_images_like_the_labelled_ones_exceed_the_limit(count: int) -> None:
    assert false_warnings(count, 0.2) < 0.02


@pytest.mark.parametrize(("count", "share"), [(3, 0.06), (30, 0.03)])
def test_images_that_vary_more_than_usual_seldom_exceed_the_limit(count: int, share: float) -> None:
    assert false_warnings(count, 0.4) < share


def test_few_images_have_a_wider_limit_than_many() -> None:
    scores = [0.9, 1.0, 1.1]
    limits = [ood_limit(scores * times) for times in (1, 3, 30)]
    assert limits[0] > 1.2 * limits[2] and limits[0] > limits[1] > limits[2] > max(scores)


def test_the_limit_is_wide_for_images_that_hardly_vary() -> None:
    assert ood_limit([1.0, 1.01, 1.02]) > 1.8


def test_one_odd_image_among_many_does_not_silence_the_warnings() -> None:
    alike = [0.9, 0.95, 1.0, 1.0, 1.05, 1.1]
    assert ood_limit([*alike, 20.0]) < 2 < 20


def test_the_limit_grows_with_the_scores() -> None:
    scores = np.array([0.8, 1.0, 1.3])
    assert ood_limit(3 * scores) == pytest.approx(3 * ood_limit(scores))
