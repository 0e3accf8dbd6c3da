"""The augmentation parameters of each sample."""

from dataclasses import fields, replace

import numpy as np
import pytest
from checkout import ROOT

from micrograph.settings import build_config, read_recipe
from pretrain.config import TrainConfig
from pretrain.loading.augment import AugmentParams, noise_bank, training_params, validation_params

CONFIG = TrainConfig(arch="resnet18", image_size=64, seed=5)
IDS = np.arange(4000)
HEIGHTS, WIDTHS = np.full(4000, 300), np.full(4000, 500)


def test_augmentation_depends_on_epoch_and_sample_not_on_the_batch() -> None:
    many = training_params(CONFIG, 1, IDS, HEIGHTS, WIDTHS)
    one = training_params(CONFIG, 1, IDS[77:78], HEIGHTS[77:78], WIDTHS[77:78])
    assert np.array_equal(many.roi_start[77], one.roi_start[0])
    assert many.angle[77] == one.angle[0]
    assert many.noise[77] == one.noise[0]
    later = training_params(CONFIG, 2, IDS, HEIGHTS, WIDTHS)
    assert not np.array_equal(many.roi_start, later.roi_start)


def test_crops_stay_inside_the_image() -> None:
    params = training_params(CONFIG, 0, IDS, HEIGHTS, WIDTHS)
    corners = np.stack([params.roi_start, params.roi_end])
    assert corners.min() > -1e-3
    assert corners[..., 0].max() < 300 + 1e-3
    assert corners[..., 1].max() < 500 + 1e-3


def test_flips_swap_the_bounds_of_half_the_samples() -> None:
    params = training_params(CONFIG, 0, IDS, HEIGHTS, WIDTHS)
    flipped = (params.roi_start > params.roi_end).mean(axis=0)
    assert np.all(abs(flipped - 0.5) < 0.04)
    unflipped = TrainConfig(arch="resnet18", hflip_prob=0, vflip_prob=0)
    params = training_params(unflipped, 0, IDS, HEIGHTS, WIDTHS)
    assert np.all(params.roi_start < params.roi_end)


def test_angles_are_uniform_and_zero_without_a_rotation() -> None:
    params = training_params(CONFIG, 0, IDS, HEIGHTS, WIDTHS)
    assert abs(params.rotates.mean() - CONFIG.rotate_prob) < 0.04
    assert not params.angle[~params.rotates].any()
    counts, _ = np.histogram(params.angle[params.rotates], bins=9, range=(-45, 45))
    assert counts.sum() == params.rotates.sum()
    assert counts.min() > 0.75 * counts.mean()


def test_crops_cover_the_configured_fraction_of_the_area() -> None:
    config = TrainConfig(arch="resnet18", rotate_prob=0, crop_aspect_max=1.0, crop_area_min=0.25)
    squares = np.full(4000, 400)
    params = training_params(config, 0, IDS, squares, squares)
    sides = abs(params.roi_end - params.roi_start)
    shares = sides.prod(axis=1) / 400**2
    assert shares.min() >= 0.249
    assert shares.max() <= 1.001
    assert abs(shares.mean() - 0.625) < 0.02


def test_contrast_keeps_mid_grey() -> None:
    config = TrainConfig(arch="resnet18", brightness=0)
    params = training_params(config, 0, IDS, HEIGHTS, WIDTHS)
    assert np.allclose(0.5 * params.contrast + params.shift, 0.5, atol=1e-6)
    assert params.contrast.min() < 0.72
    assert params.contrast.max() > 1.28
    assert np.all((params.noise >= 0) & (params.noise <= config.noise))


def test_validation_crops_the_central_square_only() -> None:
    params = validation_params(CONFIG, np.array([400]), np.array([800]))
    assert params.roi_start[0].tolist() == [25, 225]  # 0.875 * 400 = 350 wide, centred
    assert params.roi_end[0].tolist() == [375, 575]
    assert (params.contrast[0], params.shift[0], params.noise[0]) == (1, 0, 0)


def test_paper_bs_recipe_only_resizes_the_whole_image() -> None:
    recipe = ROOT / "configs" / "pretrain" / "nanosem.yaml"
    config = build_config(TrainConfig, read_recipe(recipe))
    trained = training_params(config, 3, IDS, HEIGHTS, WIDTHS)
    assert np.array_equal(trained.roi_start, np.zeros((4000, 2)))
    assert np.array_equal(trained.roi_end, np.tile([300, 500], (4000, 1)))
    assert np.all(trained.size == 224)
    validated = validation_params(config, HEIGHTS, WIDTHS)
    for field in fields(trained):
        if field.name != "noise_at":  # where noise would come from, if there were any
            assert np.array_equal(getattr(trained, field.name), getattr(validated, field.name))


def test_quarter_turns_are_uniform_without_an_angle() -> None:
    config = TrainConfig(
        arch="resnet18", rotation_mode="quarter", rotate_prob=0.75, hflip_prob=0, vflip_prob=0
    )
    params = training_params(config, 0, IDS, HEIGHTS, WIDTHS)
    assert not params.rotates.any()
    assert not params.angle.any()
    flips = params.roi_start > params.roi_end
    # None, 90, 180 and 270 degrees, a quarter of the samples each.
    kinds = 4 * params.transposes + 2 * flips[:, 0] + flips[:, 1]
    assert sorted(np.unique(kinds)) == [0, 3, 5, 6]
    assert np.all(abs(np.bincount(kinds)[[0, 3, 5, 6]] / 4000 - 0.25) < 0.03)


def test_aspect_ratios_are_log_uniform() -> None:
    config = TrainConfig(arch="resnet18", rotate_prob=0, crop_aspect_max=1.5, crop_area_min=0.1)
    squares = np.full(4000, 900)
    params = training_params(config, 0, IDS, squares, squares)
    height, width = abs(params.roi_end - params.roi_start).T
    inside = height * width < 0.6 * 900**2  # larger ones may be cut at the edge when stretched
    counts, _ = np.histogram(np.log(width / height)[inside], bins=8, range=np.log([1 / 1.5, 1.5]))
    assert counts.sum() == inside.sum()
    assert counts.min() > 0.8 * counts.mean()


def test_the_scale_of_a_rotated_crop_is_that_of_an_upright_one() -> None:
    # The window grows by as much as its size after the resize, where it fits into the image.
    config = TrainConfig(arch="resnet18", rotate_prob=1, crop_area_min=0.05, crop_aspect_max=1.0)
    squares = np.full(4000, 2000)
    rotated = training_params(config, 0, IDS, squares, squares)
    upright = training_params(replace(config, rotate_prob=0.0), 0, IDS, squares, squares)
    small = abs(upright.roi_end - upright.roi_start).max(axis=1) < 2000 / 2**0.5 - 1

    def scale(params: AugmentParams) -> np.ndarray:
        return abs(params.roi_end - params.roi_start)[small] / params.size[small]

    assert small.sum() > 1000
    assert np.allclose(scale(rotated), scale(upright), rtol=0.005)  # sizes are whole pixels


def test_noise_windows_stay_inside_the_bank() -> None:
    bank = noise_bank(CONFIG)
    params = training_params(CONFIG, 0, IDS, HEIGHTS, WIDTHS)
    assert bank.std() == pytest.approx(1, abs=0.005)
    assert bank.mean() == pytest.approx(0, abs=0.005)
    assert params.noise_at.min() >= 0
    assert params.noise_at.max() + CONFIG.image_size <= len(bank)
    assert params.noise_at.max() > len(bank) - CONFIG.image_size - 5
