"""The model of a training: built on its device, then prepared for all processes."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from micrograph.cli import UserError
from pretrain.config import TrainConfig
from pretrain.network.classifier import build_classifier


def build_model(config: TrainConfig, classes: int, device: torch.device) -> nn.Module:
    """The classifier with its initial weights; raises `UserError` as `build_classifier` does."""
    model: nn.Module = build_classifier(
        config.arch, config.init, classes, config.dropout, config.image_size
    )
    # A fifth faster on CPUs (ResNet-18, 112 px) and what tensor cores want on GPUs.
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def prepare_model(
    model: nn.Module, optimizer: Any, config: TrainConfig, accelerator: Accelerator
) -> tuple[nn.Module, Any]:
    """Model and optimizer for all processes, with synchronised norms and compiled if set so."""
    if config.sync_bn:
        model = synchronise_norms(model, accelerator.num_processes, accelerator.device)
    if config.compile:
        model.compile()  # in place: names of parameters stay, copies made before are not compiled
    return accelerator.prepare(model, optimizer)  # type: ignore[no-any-return]


def synchronise_norms(model: nn.Module, processes: int, device: torch.device) -> nn.Module:
    """Batch norms over the batches of all processes; the parameters stay the same objects.

    Nothing to do for one process. Raises `UserError` for several on CPUs, where torch has none.
    """
    if processes == 1:
        return model
    if device.type != "cuda":
        raise UserError(
            f"sync_bn works between GPUs only, and these {processes} processes are on CPUs; "
            "leave it out, or train in one process"
        )
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted
