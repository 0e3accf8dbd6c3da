"""How many images fit through the network at once: found by trying, on a GPU."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from pretrain.config import TrainConfig
from pretrain.host_pixels import PREFETCH
from pretrain.processes import together
from pretrain.store import ShardSplit
from shards.cli import UserError, console

CPU_MICRO_BATCH = 32  # enough for batch norm; larger ones are no faster on a CPU
_LEAST = 4  # micro-batches of two and three may grow to this (order.py)


def fit_micro_batch(
    model: nn.Module, config: TrainConfig, accelerator: Accelerator, splits: Sequence[ShardSplit]
) -> int:
    """The micro-batch size to use: as configured, or the largest halving that fits in memory.

    `splits` are those that batches are to be made of, whose memory must be left free.
    All processes get the same. Raises `UserError` when not even a few images fit.
    """
    share = max(1, config.batch_size // int(accelerator.num_processes))
    if config.micro_batch_size is not None:
        return config.micro_batch_size
    if accelerator.device.type != "cuda":
        return min(share, CPU_MICRO_BATCH)
    size = share
    with together(accelerator):
        while not _fits(model, size, config, accelerator, queued_bytes(splits, size, config)):
            size //= 2
            if size < min(_LEAST, share):
                raise UserError(f"{config.arch} at {config.image_size} px does not fit on this GPU")
    sizes = accelerator.gather(torch.tensor([size], device=accelerator.device))
    size = int(sizes.min())
    if accelerator.is_main_process and size < share:
        console.print(
            f"micro-batches of {size}; gradients add up to batches of {config.batch_size}"
        )
    return size


def queued_bytes(splits: Sequence[ShardSplit], size: int, config: TrainConfig) -> int:
    """Of a GPU's memory, what DALI takes at most to make batches of `size` from each split.

    The batches ahead and the one in the making, as bytes: stored images (copies of those that are
    kept decoded), resized to more than a crop where they are then rotated, and rotated. A decoder
    on the GPU holds two bytes more for each pixel of the batch it is at, its coefficients.
    """
    total = 0
    for data in splits:
        channels = data.manifest.channels
        pixels = data.index["height"].astype(np.int64) * data.index["width"].astype(np.int64)
        stored = int(np.sort(pixels)[-size:].sum()) * channels
        shaped = (2 + 1) * size * config.image_size**2 * channels  # 45 degrees: twice the area
        total += (PREFETCH + 1) * (stored + shaped) + 2 * stored
    return total


def _fits(
    model: nn.Module, size: int, config: TrainConfig, accelerator: Accelerator, queued: int
) -> bool:
    trial: nn.Module | None = None
    try:
        torch.cuda.reset_peak_memory_stats(accelerator.device)
        trial = copy.deepcopy(model)  # the try must leave no trace in running statistics
        images = torch.zeros(
            size, 3, config.image_size, config.image_size, device=accelerator.device
        )
        with accelerator.autocast():
            loss = trial(images).float().square().mean()
        loss.backward()
        # DDP's buckets and each of the optimizer's moments take the parameters' size again.
        # Averaged weights are there already, and torch.compile needs less than this try.
        moments = 1 if config.optimizer == "sgd" else 2
        reserve = (1 + moments) * sum(p.numel() * p.element_size() for p in trial.parameters())
        # The photometry of the next batch, in floats, while this one is still held; mixing holds
        # the partners, the weights and the result.
        reserve += (9 if config.mixes else 6) * images.numel() * images.element_size() + queued
        free, total = torch.cuda.mem_get_info(accelerator.device)
        others = total - free - torch.cuda.memory_reserved(accelerator.device)
        peak = torch.cuda.max_memory_allocated(accelerator.device)
        return total - others - peak > reserve
    except torch.OutOfMemoryError:
        return False
    finally:
        del trial
        torch.cuda.empty_cache()
