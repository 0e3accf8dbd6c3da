"""Which decoded images are cached, and when."""

from pathlib import Path

import numpy as np
import pytest
import torch

from micrograph.cli import UserError
from pretrain.config import TrainConfig
from pretrain.loading.cpu_pipeline import decode
from pretrain.loading.image_cache import DecodedImageCache, decide_caching, free_memory, image_bytes
from pretrain.loading.open_sources import open_sources
from pretrain.loading.shard_reader import open_split

CPU = torch.device("cpu")


def test_a_cache_returns_the_images_put(shards: Path) -> None:
    data = open_split(shards, "train")
    image_cache = DecodedImageCache(data, CPU)
    assert image_cache.get(5) is None
    images = [decode(encoded, 1) for encoded in data.read(np.arange(len(data)))]
    for sample in reversed(range(len(data))):
        assert not image_cache.complete
        image_cache.put(sample, torch.from_numpy(images[sample]))
    assert image_cache.complete
    for sample, image in enumerate(images):
        cached = image_cache.get(sample)
        assert cached is not None
        assert np.array_equal(cached.numpy(), image)


def test_images_are_cached_if_they_fit(shards: Path) -> None:
    data = open_split(shards, "train")
    assert image_bytes(data) == 48 * 64 * 64
    for choice, cached in (("auto", True), ("always", True), ("never", False)):
        (decided,) = decide_caching(choice, [data], CPU)  # type: ignore[arg-type]
        assert decided.cached is cached
    # So many processes on one machine that none has room.
    crowd = free_memory() // image_bytes(data)
    (crowded,) = decide_caching("auto", [data], CPU, processes=crowd)
    assert not crowded.cached
    assert "too large" in crowded.reason
    with pytest.raises(UserError, match="cache_images is 'always', but train need"):
        decide_caching("always", [data], CPU, processes=2 * crowd)


def test_splits_share_one_budget(shards: Path) -> None:
    train, val = open_split(shards, "train"), open_split(shards, "val")
    assert image_bytes(train) == 4 * image_bytes(val)
    # Each process has room in its half for the larger one and an eighth or a half of it more.
    room = {share: int(free_memory() / (2 * share * image_bytes(train))) for share in (1.12, 1.5)}
    cached = {
        share: [r.cached for r in decide_caching("auto", [train, val], CPU, processes=crowd)]
        for share, crowd in room.items()
    }
    assert cached == {1.12: [True, False], 1.5: [True, True]}
    crowd = int(free_memory() / (1.12 * image_bytes(train)))
    with pytest.raises(UserError, match="train and val need"):
        decide_caching("always", [train, val], CPU, processes=crowd)


def test_free_memory_is_below_the_total() -> None:
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 2**26 < free_memory() <= total


def test_both_decisions_are_in_the_summary(shards: Path) -> None:
    splits = [open_split(shards, "train"), open_split(shards, "val")]
    config = TrainConfig(arch="resnet18", image_size=32)
    train, val = open_sources(splits, config, CPU, 1, 1)
    assert train.image_cache is not None
    assert val.image_cache is not None
    assert train.summary.startswith("train images: 0.00 GiB decoded, cached in memory")
    assert "decoded by host: no GPU is used" in train.summary
