"""Tiles of paper B: cutting and stitching, with each pixel scored once."""

import numpy as np
import pytest

from downstream.domains.tile_plan import IGNORE, TilePlan

RNG = np.random.default_rng(20)
# Drawn sizes, and those at which something begins or ends.
PLANS = [
    TilePlan(*(int(RNG.integers(1, limit)) for limit in (90, 90, 40)), int(RNG.integers(0, 50)))
    for _ in range(120)
] + [
    TilePlan(1, 1, 1, 0),
    TilePlan(1, 7, 5, 11),  # the margin is mirrored several times
    TilePlan(16, 16, 16, 3),
    TilePlan(17, 15, 16, 3),
    TilePlan(32, 48, 16, 0),
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_stitched_cores_are_the_image(plan: TilePlan) -> None:
    image = RNG.integers(0, 256, (plan.height, plan.width, 3), np.uint8)
    tiles = plan.extract(image)
    assert tiles.shape == (len(plan), plan.side, plan.side, 3)
    assert tiles.flags.writeable and tiles.flags.c_contiguous  # for torch
    maps = plan.centre(tiles.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(plan.stitch(maps), image.transpose(2, 0, 1))


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_each_pixel_counts_once_and_all_else_is_ignored(plan: TilePlan) -> None:
    number = np.arange(plan.height * plan.width).reshape(plan.height, plan.width)
    counted = plan.counted()
    np.testing.assert_array_equal(np.sort(plan.extract(number)[counted]), number.ravel())
    assert plan.centre(counted).sum() == counted.sum()  # none in the margins
    mask = (number % 3).astype(np.uint8)
    np.testing.assert_array_equal(plan.extract_labels(mask) != IGNORE, counted)
    compat = plan.extract_labels(mask, compat_padding=True)
    assert (plan.centre(compat) != IGNORE).all()
    assert (compat != IGNORE).sum() == len(plan) * plan.tile_core**2


def test_margins_show_the_neighbours() -> None:
    image = np.arange(8 * 12).reshape(8, 12)
    tiles = TilePlan(8, 12, 4, 2).extract(image)
    np.testing.assert_array_equal(tiles[4, 2:6, 2:6], image[4:8, 4:8])  # second row, second column
    np.testing.assert_array_equal(tiles[4, :6], image[2:8, 2:10])
    np.testing.assert_array_equal(tiles[4, 6:], image[7:5:-1, 2:10])  # below the image: mirrored


def test_the_paper_s_images_give_four_tiles_of_636() -> None:
    plan = TilePlan(717, 1024)
    assert (plan.rows, plan.columns, plan.side) == (2, 2, 636)
    share = plan.counted().sum() / plan.counted(compat_padding=True).sum()
    assert share == pytest.approx(717 / 1024)  # 30 % of its square is mirrored
