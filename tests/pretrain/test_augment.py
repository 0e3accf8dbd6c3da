"""What is drawn for each sample."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from pretrain.augment import Draws, draw_training, draw_validation, noise_bank
from pretrain.config import TrainConfig
from shards.settings import build_config, read_recipe

CONFIG = TrainConfig(arch="resnet18", image_size=64, seed=5)
IDS = np.arange(4000)
HEIGHTS, WIDTHS = np.full(4000, 300), np.full(4000, 500)


def test_a_sample_is_augmented_the_same_in_any_batch() -> None:
    many = draw_training(CONFIG, 1, IDS, HEIGHTS, WIDTHS)
    one = draw_training(CONFIG, 1, IDS[77:78], HEIGHTS[77:78], WIDTHS[77:78])
    assert np.array_equal(many.roi_start[77], one.roi_start[0])
    assert many.angle[77] == one.angle[0]
    assert many.noise[77] == one.noise[0]


def test_epochs_augment_differently() -> None:
    first = draw_training(CONFIG, 0, IDS, HEIGHTS, WIDTHS)
    second = draw_training(CONFIG, 1, IDS, HEIGHTS, WIDTHS)
    assert not np.array_equal(first.roi_start, second.roi_start)


def test_windows_stay_inside_the_image() -> None:
    draws = draw_training(CONFIG, 0, IDS, HEIGHTS, WIDTHS)
    corners = np.stack([draws.roi_start, draws.roi_end])
    assert corners.min() > -1e-3
    assert corners[..., 0].max() < 300 + 1e-3
    assert corners[..., 1].max() < 500 + 1e-3


def test_flips_swap_the_bounds_of_half_the_samples() -> None:
    draws = draw_training(CONFIG, 0, IDS, HEIGHTS, WIDTHS)
    flipped = (draws.roi_start > draws.roi_end).mean(axis=0)
    assert np.all(abs(flipped - 0.5) < 0.04)
    unflipped = TrainConfig(arch="resnet18", hflip_prob=0, vflip_prob=0)
    draws = draw_training(unflipped, 0, IDS, HEIGHTS, WIDTHS)
    assert np.all(draws.roi_start < draws.roi_end)


def test_angles_are_even_within_their_bound_and_zero_where_none_is_drawn() -> None:
    draws = draw_training(CONFIG, 0, IDS, HEIGHTS, WIDTHS)
    assert abs(draws.rotates.mean() - CONFIG.rotate_prob) < 0.04
    assert not draws.angle[~draws.rotates].any()
    counts, _ = np.histogram(draws.angle[draws.rotates], bins=9, range=(-45, 45))
    assert counts.sum() == draws.rotates.sum()
    assert counts.min() > 0.75 * counts.mean()


def test_crops_cover_the_stated_share_of_the_area() -> None:
    config = TrainConfig(arch="resnet18", rotate_prob=0, crop_aspect_max=1.0, crop_area_min=0.25)
    squares = np.full(4000, 400)
    draws = draw_training(config, 0, IDS, squares, squares)
    sides = abs(draws.roi_end - draws.roi_start)
    shares = sides.prod(axis=1) / 400**2
    assert shares.min() >= 0.249
    assert shares.max() <= 1.001
    assert abs(shares.mean() - 0.625) < 0.02


def test_photometry_turns_around_mid_grey() -> None:
    config = TrainConfig(arch="resnet18", brightness=0)
    draws = draw_training(config, 0, IDS, HEIGHTS, WIDTHS)
    assert np.allclose(0.5 * draws.contrast + draws.shift, 0.5, atol=1e-6)
    assert draws.contrast.min() < 0.72
    assert draws.contrast.max() > 1.28
    assert np.all((draws.noise >= 0) & (draws.noise <= config.noise))


def test_validation_takes_the_central_square_and_nothing_else() -> None:
    draws = draw_validation(CONFIG, np.array([400]), np.array([800]))
    assert draws.roi_start[0].tolist() == [25, 225]  # 0.875 * 400 = 350 wide, centred
    assert draws.roi_end[0].tolist() == [375, 575]
    assert (draws.contrast[0], draws.shift[0], draws.noise[0]) == (1, 0, 0)


def test_paper_bs_recipe_resizes_the_whole_image_and_nothing_else() -> None:
    recipe = Path(__file__).parents[2] / "configs" / "pretrain" / "nanosem.yaml"
    config = build_config(TrainConfig, read_recipe(recipe))
    trained = draw_training(config, 3, IDS, HEIGHTS, WIDTHS)
    assert np.array_equal(trained.roi_start, np.zeros((4000, 2)))
    assert np.array_equal(trained.roi_end, np.tile([300, 500], (4000, 1)))
    assert np.all(trained.size == 224)
    validated = draw_validation(config, HEIGHTS, WIDTHS)
    for field in fields(trained):
        if field.name != "noise_at":  # where noise would come from, if there were any
            assert np.array_equal(getattr(trained, field.name), getattr(validated, field.name))


def test_quarter_turns_are_even_and_never_an_angle() -> None:
    config = TrainConfig(
        arch="resnet18", rotation_mode="quarter", rotate_prob=0.75, hflip_prob=0, vflip_prob=0
    )
    draws = draw_training(config, 0, IDS, HEIGHTS, WIDTHS)
    assert not draws.rotates.any()
    assert not draws.angle.any()
    flips = draws.roi_start > draws.roi_end
    # None, 90, 180 and 270 degrees, a quarter of the samples each.
    kinds = 4 * draws.transposes + 2 * flips[:, 0] + flips[:, 1]
    assert sorted(np.unique(kinds)) == [0, 3, 5, 6]
    assert np.all(abs(np.bincount(kinds)[[0, 3, 5, 6]] / 4000 - 0.25) < 0.03)


def test_stretches_are_even_in_their_logarithm() -> None:
    config = TrainConfig(arch="resnet18", rotate_prob=0, crop_aspect_max=1.5, crop_area_min=0.1)
    squares = np.full(4000, 900)
    draws = draw_training(config, 0, IDS, squares, squares)
    height, width = abs(draws.roi_end - draws.roi_start).T
    inside = height * width < 0.6 * 900**2  # larger ones may be cut at the edge when stretched
    counts, _ = np.histogram(np.log(width / height)[inside], bins=8, range=np.log([1 / 1.5, 1.5]))
    assert counts.sum() == inside.sum()
    assert counts.min() > 0.8 * counts.mean()


def test_the_scale_of_a_rotated_crop_is_that_of_an_upright_one() -> None:
    # The window grows by as much as its size after the resize, where it fits into the image.
    config = TrainConfig(arch="resnet18", rotate_prob=1, crop_area_min=0.05, crop_aspect_max=1.0)
    squares = np.full(4000, 2000)
    rotated = draw_training(config, 0, IDS, squares, squares)
    upright = draw_training(replace(config, rotate_prob=0.0), 0, IDS, squares, squares)
    small = abs(upright.roi_end - upright.roi_start).max(axis=1) < 2000 / 2**0.5 - 1

    def scale(draws: Draws) -> np.ndarray:
        return abs(draws.roi_end - draws.roi_start)[small] / draws.size[small]

    assert small.sum() > 1000
    assert np.allclose(scale(rotated), scale(upright), rtol=0.005)  # sizes are whole pixels


def test_noise_is_cut_from_inside_its_bank() -> None:
    bank = noise_bank(CONFIG)
    draws = draw_training(CONFIG, 0, IDS, HEIGHTS, WIDTHS)
    assert bank.std() == pytest.approx(1, abs=0.005)
    assert bank.mean() == pytest.approx(0, abs=0.005)
    assert draws.noise_at.min() >= 0
    assert draws.noise_at.max() + CONFIG.image_size <= len(bank)
    assert draws.noise_at.max() > len(bank) - CONFIG.image_size - 5
