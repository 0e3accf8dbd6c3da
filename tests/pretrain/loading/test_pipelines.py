"""Both pipelines give the same images: DALI (here on the CPU) and the thread pool."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import overwrite
from PIL import Image
from scipy.ndimage import gaussian_filter
from written_sets import write_set

from micrograph.cli import UserError
from pretrain.config import TrainConfig
from pretrain.loading.augment import AugmentParams, training_params, validation_params
from pretrain.loading.cpu_pipeline import PREFETCH, CpuPipeline
from pretrain.loading.dali_pipeline import DaliPipeline, fill_image_cache
from pretrain.loading.decoder_check import choose_decode_path
from pretrain.loading.image_cache import DecodedImageCache
from pretrain.loading.sample_order import Ids
from pretrain.loading.shard_reader import ShardReader, open_split
from shards.shard_format.schema import IMAGENET_STD

CPU = torch.device("cpu")
SIDE = 48


@pytest.fixture(scope="module", params=["grey png", "grey jpeg", "colour jpeg"])
def pictures(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ShardReader:
    """Sixteen smooth images of two sizes, as both profiles store them."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(3)
    bands = 3 if "colour" in request.param else 1
    for name in ("a", "b"):
        (folder / "in" / name).mkdir(parents=True)
        for number in range(8):
            shape = (160, 200) if number % 2 else (130, 110)
            smooth = [gaussian_filter(rng.standard_normal(shape), 4) for _ in range(bands)]
            pixels = np.uint8(np.clip(127 + 400 * np.stack(smooth, -1), 0, 255))
            Image.fromarray(pixels.squeeze()).save(folder / "in" / name / f"{number}.png")
    write_set(
        folder / "in",
        folder / "out",
        profile="exact" if "png" in request.param else "fast",
        val_per_class=0,
    )
    return open_split(folder / "out", "train")


def work(
    data: ShardReader, config: TrainConfig, batches: int = 2
) -> list[tuple[Ids, AugmentParams]]:
    parts = np.array_split(np.arange(len(data)), batches)
    rows = [data.index[ids] for ids in parts]
    return [
        (ids, training_params(config, 0, ids, row["height"], row["width"]))
        for ids, row in zip(parts, rows, strict=True)
    ]


def make(
    pixels: CpuPipeline | DaliPipeline, items: list[tuple[Ids, AugmentParams]]
) -> torch.Tensor:
    return torch.cat([images.clone() for images in pixels.batches(items)])


def by_dali(
    data: ShardReader, config: TrainConfig, image_cache: DecodedImageCache | None = None
) -> DaliPipeline:
    return DaliPipeline(data, config, 8, 1, device=CPU, decode="cpu", image_cache=image_cache)


@pytest.mark.parametrize("rotation", ["any", "quarter"])
def test_both_pipelines_give_the_same_images(pictures: ShardReader, rotation: str) -> None:
    config = TrainConfig(arch="resnet18", image_size=SIDE, rotation_mode=rotation, rotate_prob=0.8)  # type: ignore[arg-type]
    items = work(pictures, config)
    host = make(CpuPipeline(pictures, config, 2, None), items)
    dali = make(by_dali(pictures, config), items)
    assert host.shape == dali.shape == (16, 3, SIDE, SIDE)
    # In grey levels: two roundings and two bilinear kernels apart; chroma decoders by some more.
    levels = (host - dali).abs() * torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255
    assert levels.mean().item() < 0.5
    assert levels.amax().item() < 8
    upright = ~np.concatenate([params.rotates for _, params in items])
    assert levels[torch.from_numpy(upright)].amax().item() < 3.5


def test_both_pipelines_give_the_same_validation_images(pictures: ShardReader) -> None:
    config = TrainConfig(arch="resnet18", image_size=SIDE)
    row = pictures.index
    items = [
        (ids, validation_params(config, row["height"][ids], row["width"][ids]))
        for ids in np.array_split(np.arange(len(pictures)), 2)
    ]
    host = make(CpuPipeline(pictures, config, 1, None), items)
    dali = make(by_dali(pictures, config), items)
    assert ((host - dali).abs() * 0.229 * 255).amax().item() < 3.5


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_exact(pictures: ShardReader, turns: int) -> None:
    still = {"hflip_prob": 0.0, "vflip_prob": 0.0, "noise": 0.0}
    upright = TrainConfig(arch="resnet18", image_size=SIDE, rotate_prob=0, **still)  # type: ignore[arg-type]
    turning = TrainConfig(
        arch="resnet18", image_size=SIDE, rotate_prob=1, rotation_mode="quarter", **still
    )  # type: ignore[arg-type]
    reference = make(CpuPipeline(pictures, upright, 1, None), work(pictures, upright))
    items = work(pictures, turning)
    got = make(CpuPipeline(pictures, turning, 1, None), items)
    params = [d for _, d in items]
    flips = np.concatenate([d.roi_start > d.roi_end for d in params])
    sideways = np.concatenate([d.transposes for d in params])
    expected = {1: (True, False, True), 2: (False, True, True), 3: (True, True, False)}[turns]
    ours = np.flatnonzero(np.all(np.column_stack([sideways, flips]) == expected, axis=1))
    assert len(ours)
    for at in ours:
        assert torch.equal(got[at], reference[at].rot90(turns, (1, 2)))


@pytest.mark.parametrize("pipeline", ["host", "dali"])
def test_cached_images_give_the_pixels_of_streamed_ones(
    pictures: ShardReader, pipeline: str
) -> None:
    config = TrainConfig(arch="resnet18", image_size=SIDE)
    items, image_cache = work(pictures, config), DecodedImageCache(pictures, CPU)
    if pipeline == "host":
        streaming, caching = (
            CpuPipeline(pictures, config, 2, None),
            CpuPipeline(pictures, config, 2, image_cache),
        )
        reference = make(streaming, items)
        assert torch.equal(make(caching, items), reference)  # decodes and caches
    else:
        reference = make(by_dali(pictures, config), items)
        fill_image_cache(image_cache, pictures, CPU, 1, "cpu")
        caching = by_dali(pictures, config, image_cache)  # type: ignore[assignment]
    assert image_cache.complete
    assert torch.equal(make(caching, items), reference)


@pytest.mark.parametrize("pipeline", ["host", "dali", "cached by dali"])
def test_a_damaged_image_is_named(shards: Path, tmp_path: Path, pipeline: str) -> None:
    shutil.copytree(shards, tmp_path / "bad")
    data = open_split(tmp_path / "bad", "train")
    row = data.index[7]
    shard = data.folder / data.manifest.splits["train"].shards[row["shard"]].name
    overwrite(shard, int(row["offset"]) + 40, b"garbage" * 20)  # after the header
    config = TrainConfig(arch="resnet18", image_size=32)
    message = "has a damaged image at byte" if pipeline == "host" else "DALI cannot make a batch"
    with pytest.raises(UserError, match=rf"{message}.*shards.verify {data.folder}$"):
        if pipeline == "cached by dali":
            fill_image_cache(DecodedImageCache(data, CPU), data, CPU, 1, "cpu")
        pixels = CpuPipeline(data, config, 1, None) if pipeline == "host" else by_dali(data, config)
        make(pixels, work(data, config, 6))


@pytest.mark.parametrize("pipeline", ["host", "dali"])
def test_an_epoch_left_early_does_not_affect_the_next(shards: Path, pipeline: str) -> None:
    data = open_split(shards, "train")
    config = TrainConfig(arch="resnet18", image_size=32)
    pixels = CpuPipeline(data, config, 1, None) if pipeline == "host" else by_dali(data, config)
    items = work(data, config, 6)
    reference = make(pixels, items)
    left = pixels.batches(items)
    next(left)
    next(left)
    assert torch.equal(make(pixels, items), reference)


def test_batches_are_made_while_the_network_computes(shards: Path) -> None:
    data = open_split(shards, "train")
    config = TrainConfig(arch="resnet18", image_size=32)
    started: list[int] = []

    def items() -> Iterator[tuple[Ids, AugmentParams]]:
        for number, item in enumerate(work(data, config, 6)):
            started.append(number)
            yield item

    image_cache = DecodedImageCache(data, CPU)
    stream = CpuPipeline(data, config, 1, image_cache).batches(items())
    next(stream)
    assert started == list(range(1 + PREFETCH))
    begun = time.monotonic()
    # No call into the loader: its threads alone bring the images.
    while sum(image_cache.get(int(i)) is not None for i in range(24)) < 24:
        torch.randn(200, 200) @ torch.randn(200, 200)
        assert time.monotonic() - begun < 30


def test_contrast_brightness_and_noise_are_those_drawn(tmp_path: Path) -> None:
    # Nearly constant: one pixel differs, since the writer rejects blank images.
    for name, low in (("a", 127), ("b", 126)):
        (tmp_path / "in" / name).mkdir(parents=True)
        pixels = np.full((40, 40), 128, np.uint8)
        pixels[0, 0] = low
        Image.fromarray(pixels).save(tmp_path / "in" / name / "0.png")
    write_set(tmp_path / "in", tmp_path / "out", profile="exact", masks="keep", val_per_class=0)
    data = open_split(tmp_path / "out", "train")
    config = TrainConfig(arch="resnet18", image_size=SIDE)
    samples = np.zeros(1, np.int64)
    heights = widths = np.full(1, 40)
    items = [
        (samples, training_params(config, epoch, samples, heights, widths)) for epoch in range(400)
    ]
    images = make(CpuPipeline(data, config, 2, None), items)[:, 0] * IMAGENET_STD[0] + 0.485
    # Per copy: 0.5 + brightness, as contrast turns around mid-grey (128 / 255 is 0.002 off it).
    means = images.mean((1, 2)).numpy()
    shifts = np.array([d.shift[0] + 0.5 * d.contrast[0] for _, d in items])
    # Noise of 0.05 moves a copy's mean of 48 x 48 pixels by 0.001.
    assert np.allclose(means, shifts + 0.002, rtol=0, atol=0.005)
    assert means.mean() == pytest.approx(0.502, abs=4 * 0.2 / 3**0.5 / 20)
    # The deviation within a copy is the one drawn for it: 2,304 pixels know it to 1.5 %.
    noise = np.array([d.noise[0] for _, d in items])
    assert np.allclose(images.std((1, 2)).numpy(), noise, rtol=0.08, atol=0.002)


@pytest.mark.gpu
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("by_gpu", [False, True])
def test_a_busy_gpu_gives_the_images_of_the_cpu(
    pictures: ShardReader, by_gpu: bool, cached: bool
) -> None:
    config = TrainConfig(arch="resnet18", image_size=SIDE)
    gpu = torch.device("cuda", torch.cuda.current_device())
    decode = choose_decode_path(pictures, gpu.index).name if by_gpu else "cpu"
    items = work(pictures, config) * 8  # many times what DALI has in hand
    image_cache = DecodedImageCache(pictures, gpu) if cached else None
    if image_cache is not None:
        fill_image_cache(image_cache, pictures, gpu, 2, decode)
    pixels = DaliPipeline(
        pictures, config, 8, 2, device=gpu, decode=decode, image_cache=image_cache
    )
    load, got = torch.randn(4096, 4096, device=gpu), []
    for images in pixels.batches(items):
        got.append(images.clone())
        for _ in range(20):  # DALI is ahead of torch by now: its memory is read late
            load = load @ load / 1000
    reference = make(CpuPipeline(pictures, config, 2, None), items)
    levels = torch.cat(got).cpu() - reference
    levels = levels.abs() * torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255
    assert levels.mean((1, 2, 3)).amax().item() < 1.0  # in each picture: a wrong one is off by tens
