"""Cutting a mosaic: images keep their place, and no overlap crosses the cut."""

import numpy as np
import pytest

from shards.duplicates.matching import OVERLAP
from shards.splitting.mosaic import Boxes, cut_mosaic, lay_out
from shards.splitting.rules import LEFT_OUT, TRAIN, VAL

SIDE = 100


def _grid(rows: int, columns: int, step: int) -> tuple[Boxes, np.ndarray]:
    """A mosaic of square images, `step` pixels apart, and all pairs that overlap."""
    corners = np.array([(c * step, r * step) for r in range(rows) for c in range(columns)], float)
    boxes = Boxes(corners, corners + SIDE)
    apart = abs(corners[:, None] - corners[None]).max(2)
    first, second = np.nonzero(np.triu(apart < SIDE, 1))
    return boxes, np.stack([first, second], 1)


def _overlaps(pairs: list[tuple[int, int, float, float, float]]) -> np.ndarray:
    found = np.zeros(len(pairs), OVERLAP)
    for row, (first, second, x, y, scale) in zip(found, pairs, strict=True):
        row["first"], row["second"], row["x"], row["y"] = first, second, x, y
        row["scale"], row["score"] = scale, 0.9
    return found


@pytest.mark.parametrize(("rows", "columns"), [(2, 30), (30, 2), (12, 12), (1, 40)])
def test_no_overlap_crosses_the_cut(rows: int, columns: int) -> None:
    boxes, pairs = _grid(rows, columns, step=50)
    assignment = cut_mosaic(boxes, pairs, target=rows * columns // 5)
    assert (assignment == VAL).sum() == rows * columns // 5
    crossing = assignment[pairs[:, 0]] + assignment[pairs[:, 1]] == TRAIN + VAL
    assert not crossing.any()
    assert (assignment == TRAIN).sum() > (assignment == VAL).sum()


def test_strip_is_cut_across_and_loses_little() -> None:
    boxes, pairs = _grid(1, 40, step=50)  # each overlaps its neighbour by half
    assignment = cut_mosaic(boxes, pairs, target=8)
    # Images at 50 pixels' distance: the one beside validation overlaps it, and the next touches the
    # margin of a tenth of an image.
    assert assignment.tolist() == [TRAIN] * 30 + [LEFT_OUT] * 2 + [VAL] * 8


def test_images_closer_than_the_margin_are_left_out() -> None:
    boxes, pairs = _grid(1, 40, step=105)  # 5 pixels apart, the margin is 10
    assert len(pairs) == 0
    assignment = cut_mosaic(boxes, pairs, target=8)
    assert assignment.tolist() == [TRAIN] * 31 + [LEFT_OUT] + [VAL] * 8


def test_pair_that_was_found_is_torn_wherever_it_lies() -> None:
    boxes, pairs = _grid(1, 40, step=50)
    assignment = cut_mosaic(boxes, np.vstack([pairs, [(0, 39)]]), target=8)
    assert assignment[0] == LEFT_OUT


def test_mosaic_of_one_place_is_not_cut() -> None:
    corners = np.zeros((10, 2))
    every = np.stack(np.triu_indices(10, 1), 1)
    assert (cut_mosaic(Boxes(corners, corners + SIDE), every, target=2) == TRAIN).all()


def test_images_are_placed_through_one_another() -> None:
    members = np.array([4, 7, 9])
    # 7 lies 60 to the right of 4; 9 lies 50 below 7 and shows it at twice the size: one of its
    # pixels is half a pixel of 7.
    overlaps = _overlaps([(4, 7, 60, 0, 1.0), (7, 9, 0, 50, 0.5)])
    boxes = lay_out(members, np.array([[100, 200]] * 3), overlaps)
    assert boxes.low.tolist() == [[0, 0], [60, 0], [60, 50]]
    assert boxes.high.tolist() == [[200, 100], [260, 100], [160, 100]]


def test_pair_in_the_other_order_is_turned_round() -> None:
    boxes = lay_out(np.array([0, 1]), np.array([[100, 100]] * 2), _overlaps([(1, 0, 30, 10, 2.0)]))
    # A pixel of 0 is two of 1, and 0 begins at (30, 10) in 1: so 1 begins at (-15, -5) in 0.
    assert boxes.low[1].tolist() == [-15, -5]
    assert boxes.high[1].tolist() == [35, 45]
