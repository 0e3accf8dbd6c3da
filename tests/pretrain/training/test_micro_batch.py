"""The micro-batch size that fits in memory, and what it needs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from micrograph.cli import UserError
from pretrain.config import TrainConfig
from pretrain.loading.shard_reader import open_split
from pretrain.network.classifier import build_classifier
from pretrain.training.ema import build_ema
from pretrain.training.micro_batch import (
    check_kernels,
    fit_micro_batch,
    largest_map,
    norm_warning,
    queued_bytes,
)
from pretrain.training.optim import build_optimizer


@pytest.mark.parametrize(
    ("layer", "images", "warns"),
    [(nn.BatchNorm2d(3), 2, True), (nn.BatchNorm2d(3), 8, False), (nn.GroupNorm(1, 3), 2, False)],
)
def test_batch_norm_over_few_images_gives_a_warning(
    layer: nn.Module, images: int, warns: bool
) -> None:
    warning = norm_warning(nn.Sequential(layer), images)
    assert ("sees 2 images at a time" in warning) == warns == bool(warning)


def test_the_memory_of_dalis_queue_is_counted(shards: Path) -> None:
    train, val = open_split(shards, "train"), open_split(shards, "val")
    config = TrainConfig(arch="resnet18", image_size=32)
    stored, resized = 16 * 64 * 64, 3 * 16 * 32 * 32
    assert queued_bytes([train], 16, config) == 3 * (stored + resized) + 2 * stored
    val_stored = 12 * 64 * 64  # it has no more
    assert queued_bytes([train, val], 16, config) == (5 * stored + 5 * val_stored + 2 * 3 * resized)


@pytest.mark.parametrize(("arch", "most"), [("vgg11", 64 * 64 * 64), ("resnet18", 64 * 32 * 32)])
def test_finding_the_largest_map_changes_nothing(arch: str, most: int) -> None:
    model = build_classifier(arch, "random", 10, 0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert largest_map(model, 64, torch.device("cpu")) == most
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_micro_batch_too_large_for_the_kernels_is_an_error() -> None:
    config = TrainConfig(arch="vgg11", image_size=64)
    model = build_classifier(config.arch, "random", 10, 0.5)
    check_kernels(model, 8191, config, torch.device("cpu"))  # times 64^3: just below 2^31
    with pytest.raises(UserError, match=r"2\.1 billion elements.*--micro-batch-size 8191 is the"):
        check_kernels(model, 8192, config, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_micro_batch_found_fits_in_memory(optimizer: Any) -> None:
    accelerator = Accelerator(mixed_precision="bf16")
    config = TrainConfig(
        arch="densenet121",  # many maps, none of them large
        image_size=224,
        batch_size=1 << 16,  # more than any GPU holds
        optimizer=optimizer,
        ema_epochs=1.0,
        precision="bf16",
    )
    model: nn.Module = build_classifier(config.arch, "random", 10, 0.0).to(accelerator.device)
    ema = build_ema(model, config)
    assert ema is not None
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    size = fit_micro_batch(model, config, accelerator, [])
    assert 2 <= size < 1 << 16
    assert size.bit_count() == 1  # a halving of the batch
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    model, steps = accelerator.prepare(model, build_optimizer(model, config))
    for step in range(3):
        images = torch.zeros(size, 3, 224, 224, device=accelerator.device)
        accelerator.backward(model(images).square().mean())
        steps.step()
        steps.zero_grad()
        ema.update(accelerator.unwrap_model(model), 0, step, 3)
