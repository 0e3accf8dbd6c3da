"""Batches of the loader, on the CPU."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates
from written_sets import write_set

from pretrain.config import TrainConfig
from pretrain.loading.augment import AugmentParams, training_params
from pretrain.loading.loader import Batch, Loader
from pretrain.loading.sample_order import EpochSampler
from pretrain.loading.shard_reader import open_split
from shards.shard_format.schema import IMAGENET_MEAN, IMAGENET_STD

CONFIG = TrainConfig(arch="resnet18", image_size=32, batch_size=16)
SAMPLER = EpochSampler(samples=48, batch_size=16, micro_batch_size=8, seed=0)
CPU = torch.device("cpu")


def make_loader(shards: Path, config: TrainConfig = CONFIG, split: str = "train") -> Loader:
    data = open_split(shards, split)
    return Loader(data, config, micro_batch_size=8, device=CPU, threads=1)


def keep(batch: Batch) -> Batch:
    return replace(batch, images=batch.images.clone())


def read_epoch(
    loader: Loader, epoch: int = 0, first_step: int = 0, rank: int = 0, world: int = 1
) -> list[Batch]:
    steps = loader.steps(SAMPLER, epoch, first_step, rank, world)
    return [keep(batch) for step in steps for batch in step.batches]


def test_an_epoch_has_every_sample_once_with_its_label(shards: Path) -> None:
    batches = read_epoch(make_loader(shards))
    assert sorted(np.concatenate([b.ids for b in batches])) == list(range(48))
    labels = torch.cat([b.labels for b in batches])
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [16, 16, 16]
    images = batches[0].images
    assert images.shape == (8, 3, 32, 32)
    assert images.dtype == torch.float32


def test_several_epochs_and_validations_follow_each_other(shards: Path) -> None:
    loader = make_loader(shards)
    first, second = read_epoch(loader, 0), read_epoch(loader, 1)
    again = read_epoch(loader, 0)
    assert not torch.equal(first[0].images, second[0].images)
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))


def test_an_epoch_resumed_at_a_step_has_the_same_pixels(shards: Path) -> None:
    whole = read_epoch(make_loader(shards), epoch=4)
    rest = read_epoch(make_loader(shards), epoch=4, first_step=1)
    assert len(rest) == 4
    for a, b in zip(whole[2:], rest, strict=True):
        assert np.array_equal(a.ids, b.ids)
        assert torch.equal(a.images, b.images)


def test_two_processes_have_the_pixels_of_one(shards: Path) -> None:
    whole = read_epoch(make_loader(shards))
    halves = [read_epoch(make_loader(shards), rank=rank, world=2) for rank in (0, 1)]
    for position, batch in enumerate(whole):
        other = halves[position % 2][position // 2]
        assert np.array_equal(batch.ids, other.ids)
        assert torch.equal(batch.images, other.images)


def test_validation_pixels_are_the_resized_centre_normalised(shards: Path, corpus: Path) -> None:
    loader = make_loader(shards, split="val")
    batch = keep(next(iter(loader.validation(8, 0, 1))))
    data = open_split(shards, "val")
    (encoded,) = data.read(batch.ids[:1])
    image = Image.open(io.BytesIO(encoded.tobytes()))
    box = (4, 4, 60, 60)  # 0.875 of 64 px, centred
    expected = image.resize((32, 32), Image.Resampling.BILINEAR, box=box)
    got = batch.images[0] * torch.tensor(IMAGENET_STD).view(3, 1, 1)
    got += torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    for channel in got:  # one grey image in three channels
        assert np.abs(channel.numpy() * 255 - np.asarray(expected)).mean() < 1.5


def test_a_rotated_crop_is_the_image_rotated_by_the_drawn_angle(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(4):
            # Smooth, so that the two ways of resampling can be compared.
            smooth = gaussian_filter(rng.standard_normal((160, 200)), 9)
            pixels = np.uint8(np.clip(127 + 900 * smooth, 0, 255))
            Image.fromarray(pixels).save(tmp_path / "in" / name / f"{number}.png")
    write_set(tmp_path / "in", tmp_path / "out", profile="exact", val_per_class=0)
    config = TrainConfig(
        arch="resnet18", image_size=48, rotate_prob=1, brightness=0, contrast=0, noise=0
    )
    data = open_split(tmp_path / "out", "train")
    loader = make_loader(tmp_path / "out", config)
    sampler = EpochSampler(samples=8, batch_size=8, micro_batch_size=8, seed=0)
    (batch,) = [keep(b) for step in loader.steps(sampler, 0, 0, 0, 1) for b in step.batches]
    rows = data.index[batch.ids]
    params = training_params(config, 0, batch.ids, rows["height"], rows["width"])
    assert abs(params.angle).max() > 20
    for at, encoded in enumerate(data.read(batch.ids)):
        source = np.asarray(Image.open(io.BytesIO(encoded.tobytes())), np.float64)
        expected = rotated(source, params.roi_start[at], params.roi_end[at], params, at)
        got = batch.images[at, 0].numpy() * IMAGENET_STD[0] + IMAGENET_MEAN[0]
        assert np.abs(got * 255 - expected).mean() < 2, f"angle {params.angle[at]}"


def rotated(
    source: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    params: AugmentParams,
    at: int,
    side: int = 48,
) -> np.ndarray:
    """The crop computed point by point: output pixel -> rotate back -> scale -> source pixel."""
    angle = np.radians(params.angle[at])
    offset = np.arange(side) - (side - 1) / 2
    down, right = np.meshgrid(offset, offset, indexing="ij")
    y = np.cos(angle) * down + np.sin(angle) * right  # counter-clockwise
    x = -np.sin(angle) * down + np.cos(angle) * right
    scale = (end - start) / params.size[at]
    centre = (start + end) / 2 - 0.5
    points = [centre[0] + y * scale[0], centre[1] + x * scale[1]]
    return map_coordinates(source, points, order=1, mode="nearest")
