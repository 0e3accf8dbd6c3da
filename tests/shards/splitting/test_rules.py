"""The split: how many validate, that groups stay whole, and that keys and seed alone decide who."""

import numpy as np
import pytest

from shards.splitting.rules import (
    LEFT_OUT,
    TRAIN,
    VAL,
    Population,
    apply_saved,
    draw_folds,
    draw_validation,
    hold_out,
    return_to_train,
    share_targets,
    shuffled,
    training_only,
    validation_count,
    validation_targets,
)

KEYS = [f"k{number}" for number in range(30)]


def _population(
    labels: list[int], groups: list[int] | None = None, keys: list[str] | None = None
) -> Population:
    return Population(
        keys=keys or [f"k{number}" for number in range(len(labels))],
        labels=np.array(labels, np.int64),
        groups=np.array(groups or range(len(labels)), np.int64),
        classes=max(labels) + 1,
    )


def _validating(
    keys: list[str], labels: list[int], *, per_class: int = 50, seed: int = 0
) -> set[str]:
    population = _population(labels, keys=keys)
    targets = validation_targets(population.class_sizes(), per_class, 0.2)
    assignment = draw_validation(population, targets, seed)
    return {key for key, side in zip(keys, assignment, strict=True) if side == VAL}


# How many


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
    assert validation_count(samples, per_class=0, max_share=0.2) == 0


def test_share_of_each_class_but_one_at_least() -> None:
    assert share_targets(np.array([0, 1, 2, 10, 18_750]), 0.2).tolist() == [0, 0, 1, 2, 3750]


# Which


def test_order_is_that_of_the_sha256_of_seed_and_key() -> None:
    # `printf 0:a | sha256sum` begins with 9df3, 0:b with e021, 0:c with be08.
    assert shuffled(["a", "b", "c"], seed=0).tolist() == [0, 2, 1]


def test_split_depends_on_the_seed_but_not_on_the_order_of_the_keys() -> None:
    labels = [number % 3 for number in range(30)]
    assert _validating(KEYS[::-1], labels[::-1]) == _validating(KEYS, labels)
    assert _validating(KEYS, labels, seed=0) != _validating(KEYS, labels, seed=1)


def test_new_images_of_a_class_leave_the_split_of_the_others_alone() -> None:
    labels = [0] * 15 + [1] * 15
    new = [f"new{number}" for number in range(40)]
    before = _validating(KEYS, labels)
    after = _validating([*KEYS, *new], [*labels, *[1] * 40])
    assert after & set(KEYS[:15]) == before & set(KEYS[:15])


def test_validation_images_change_only_with_their_number() -> None:
    new = [f"new{number}" for number in range(10)]
    before = _validating(KEYS, [0] * 30, per_class=5)
    assert _validating([*KEYS, *new], [0] * 40, per_class=5) & set(KEYS) <= before
    assert _validating(KEYS, [0] * 30, per_class=3) < before


# Groups


def _spanning(population: Population, assignment: np.ndarray) -> set[int]:
    """Groups with images on both assignment."""
    train = set(population.groups[assignment == TRAIN].tolist())
    return train & set(population.groups[assignment == VAL].tolist())


@pytest.mark.parametrize("seed", range(20))
def test_no_group_spans_the_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=200).tolist()
    population = _population(labels, rng.integers(60, size=200).tolist())  # mixed classes too
    targets = share_targets(population.class_sizes(), 0.2)
    assignment = draw_validation(population, targets, seed)
    assert _spanning(population, assignment) == set()
    drawn = np.bincount(population.labels[assignment == VAL], minlength=3)
    assert (drawn <= targets).all()
    assert (drawn >= 0.5 * targets).all()  # about three images a group


def test_single_images_fill_what_groups_leave() -> None:
    population = _population([0] * 20, [0] * 15 + list(range(1, 6)))
    assignment = draw_validation(population, np.array([4]), seed=0)
    assert (assignment[:15] == TRAIN).all()
    assert (assignment[15:] == VAL).sum() == 4


def test_class_that_is_one_group_trains_only() -> None:
    population = _population([0] * 10 + [1] * 10, [0] * 10 + list(range(1, 11)))
    targets = np.array([2, 2])
    assignment = draw_validation(population, targets, seed=0)
    assert training_only(population, assignment, targets) == (0,)


def test_class_with_less_than_half_its_target_is_returned_to_train() -> None:
    population = _population([0] * 20, [0] * 17 + [1, 2, 3])
    targets = np.array([8])
    assignment = draw_validation(population, targets, seed=0)
    assert (assignment == VAL).sum() == 3
    assert training_only(population, assignment, targets) == (0,)
    assert (return_to_train(population, assignment, (0,)) == TRAIN).all()


def test_returned_to_train_class_stays_where_its_group_holds_another_class() -> None:
    population = _population([0, 0, 1, 1], [0, 1, 1, 2])
    assignment = np.array([VAL, VAL, VAL, TRAIN], np.int8)
    assert return_to_train(population, assignment, (0,)).tolist() == [TRAIN, VAL, VAL, TRAIN]


# Folds, held-out sources, saved splits


def test_folds_are_whole_groups_of_balanced_classes() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300).tolist()
    groups = rng.integers(100, size=300).tolist()
    population = _population(labels, groups)
    folds = draw_folds(population, 5, seed=0)
    for group in set(groups):
        assert len(set(folds[population.groups == group].tolist())) == 1
    counts = np.array([np.bincount(population.labels[folds == n], minlength=3) for n in range(5)])
    assert (abs(counts - counts.mean(0)) <= 0.2 * counts.mean(0)).all()


def test_every_image_validates_in_one_fold() -> None:
    folds = draw_folds(_population([0] * 10 + [1] * 10), 5, seed=0)
    assert np.bincount(folds).tolist() == [4] * 5


def test_images_connected_to_a_held_out_source_are_left_out() -> None:
    population = _population([0] * 5, [0, 0, 1, 1, 2])
    held = np.array([True, False, False, False, False])
    assert hold_out(population, held).tolist() == [VAL, LEFT_OUT, TRAIN, TRAIN, TRAIN]


def _edges(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, np.int64).reshape(-1, 2)


def test_saved_split_is_kept_and_new_images_follow_their_edges() -> None:
    keys = ["a", "new1", "b", "new2", "new3", "new4"]
    assignment = apply_saved(keys, {"a": VAL, "b": TRAIN}, _edges((0, 1), (2, 3), (1, 5)))
    assert assignment.tolist() == [VAL, VAL, TRAIN, TRAIN, TRAIN, VAL]


@pytest.mark.parametrize("edges", [[(0, 1)], [(0, 2), (2, 1)]], ids=["directly", "through a new"])
def test_saved_training_image_connected_to_validation_is_left_out(
    edges: list[tuple[int, int]],
) -> None:
    assignment = apply_saved(["a", "b", "new"], {"a": VAL, "b": TRAIN}, _edges(*edges))
    assert assignment[:2].tolist() == [VAL, LEFT_OUT]


def test_mosaic_that_was_cut_is_cut_alike_again() -> None:
    # A chain: each overlaps the next, and what was left out keeps the assignment apart.
    known = [TRAIN, TRAIN, LEFT_OUT, VAL, VAL]
    saved = dict(zip("abcde", known, strict=True))
    assignment = apply_saved(list("abcde"), saved, _edges((0, 1), (1, 2), (2, 3), (3, 4)))
    assert assignment.tolist() == [TRAIN, TRAIN, LEFT_OUT, VAL, VAL]
