"""What is kept decoded, and when."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.config import TrainConfig
from pretrain.host_pixels import decode
from pretrain.resident import Arena, decide_residence, free_memory, image_bytes
from pretrain.source import open_sources
from pretrain.store import open_split
from shards.cli import UserError

CPU = torch.device("cpu")


def test_an_arena_gives_back_what_was_put(shards: Path) -> None:
    data = open_split(shards, "train")
    arena = Arena(data, CPU)
    assert arena.get(5) is None
    images = [decode(encoded, 1) for encoded in data.read(np.arange(len(data)))]
    for sample in reversed(range(len(data))):
        assert not arena.complete
        arena.put(sample, torch.from_numpy(images[sample]))
    assert arena.complete
    for sample, image in enumerate(images):
        held = arena.get(sample)
        assert held is not None
        assert np.array_equal(held.numpy(), image)


def test_images_are_kept_where_they_fit(shards: Path) -> None:
    data = open_split(shards, "train")
    assert image_bytes(data) == 48 * 64 * 64
    assert decide_residence("auto", data, CPU).kept
    assert decide_residence("always", data, CPU).kept
    assert not decide_residence("never", data, CPU).kept
    # So many processes on one machine that none has room.
    crowd = free_memory() // image_bytes(data)
    crowded = decide_residence("auto", data, CPU, processes=crowd)
    assert not crowded.kept
    assert "too large" in crowded.reason
    with pytest.raises(UserError, match="resident is 'always', but train needs"):
        decide_residence("always", data, CPU, processes=2 * crowd)


def test_the_free_memory_is_some_and_not_more_than_there_is() -> None:
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 2**26 < free_memory() <= total


def test_both_decisions_are_told(shards: Path) -> None:
    splits = [open_split(shards, "train"), open_split(shards, "val")]
    config = TrainConfig(arch="resnet18", image_size=32)
    train, val = open_sources(splits, config, CPU, 1)
    assert train.arena is not None
    assert val.arena is not None
    assert train.told.startswith("train images: 0.00 GiB decoded, kept in memory")
    assert "decoded by host: no GPU is used" in train.told
