"""The split: how many validate, and that nothing but keys and seed decides who."""

import numpy as np
import pytest

from shards.split import draw_validation, shuffled, validation_count

KEYS = [f"k{number}" for number in range(30)]


def _validating(
    keys: list[str], labels: list[int], *, per_class: int = 50, seed: int = 0
) -> set[str]:
    drawn = draw_validation(
        keys, labels, max(labels) + 1, per_class=per_class, max_share=0.2, seed=seed
    )
    return {key for key, validates in zip(keys, drawn, strict=True) if validates}


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (1000, 50),  # paper A's number
        (250, 50),
        (249, 49),
        (10, 2),
        (9, 1),  # a fifth of 9 is 1.8
        (4, 1),  # one at least ...
        (2, 1),
        (1, 0),  # ... but training comes first
        (0, 0),
    ],
)
def test_validation_count_by_size_of_the_class(samples: int, expected: int) -> None:
    assert validation_count(samples, per_class=50, max_share=0.2) == expected


def test_no_validation_when_none_is_wanted() -> None:
    assert validation_count(1000, per_class=0, max_share=0.2) == 0


def test_every_class_gives_its_count() -> None:
    labels = [0] * 15 + [1] * 10 + [2] * 4 + [3]
    drawn = draw_validation(KEYS, labels, 4, per_class=50, max_share=0.2, seed=0)
    assert np.bincount(np.array(labels)[drawn], minlength=4).tolist() == [3, 2, 1, 0]


def test_class_without_samples_gives_none() -> None:
    drawn = draw_validation(["a", "b"], [2, 2], 4, per_class=1, max_share=0.5, seed=0)
    assert drawn.sum() == 1


def test_order_is_that_of_the_sha256_of_seed_and_key() -> None:
    # `printf 0:a | sha256sum` begins with 9df3, 0:b with e021, 0:c with be08.
    assert shuffled(["a", "b", "c"], seed=0).tolist() == [0, 2, 1]


def test_order_depends_on_the_seed() -> None:
    assert shuffled(KEYS, seed=0).tolist() != shuffled(KEYS, seed=1).tolist()


def test_order_holds_every_position_once() -> None:
    assert sorted(shuffled(KEYS, seed=0).tolist()) == list(range(30))


def test_order_of_nothing_is_empty() -> None:
    assert shuffled([], seed=0).tolist() == []


def test_grown_corpus_keeps_the_order_of_what_it_had() -> None:
    before = [KEYS[i] for i in shuffled(KEYS, seed=3)]
    grown = [*(f"new{number}" for number in range(20)), *KEYS]
    after = [grown[i] for i in shuffled(grown, seed=3)]
    assert [key for key in after if key in KEYS] == before


def test_split_does_not_depend_on_the_order_of_the_keys() -> None:
    labels = [number % 3 for number in range(30)]
    turned = _validating(KEYS[::-1], labels[::-1])
    assert turned == _validating(KEYS, labels)


def test_split_depends_on_the_seed() -> None:
    assert _validating(KEYS, [0] * 30, seed=0) != _validating(KEYS, [0] * 30, seed=1)


def test_new_images_of_a_class_leave_the_split_of_the_others_alone() -> None:
    labels = [0] * 15 + [1] * 15
    new = [f"new{number}" for number in range(40)]
    before = _validating(KEYS, labels)
    after = _validating([*KEYS, *new], [*labels, *[1] * 40])
    assert after & set(KEYS[:15]) == before & set(KEYS[:15])


def test_old_image_starts_to_validate_only_when_the_count_rises() -> None:
    new = [f"new{number}" for number in range(10)]
    before = _validating(KEYS, [0] * 30, per_class=5)
    after = _validating([*KEYS, *new], [0] * 40, per_class=5)
    assert after & set(KEYS) <= before


def test_validating_image_goes_on_to_validate_when_the_count_rises() -> None:
    assert _validating(KEYS, [0] * 30, per_class=3) < _validating(KEYS, [0] * 30, per_class=5)
