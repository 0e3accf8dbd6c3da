"""How many images fit through the network at once: found by trying, on a GPU."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from pretrain.config import TrainConfig
from pretrain.host_pixels import PREFETCH
from pretrain.processes import sync_errors
from pretrain.store import ShardSplit
from shards.cli import UserError, console

CPU_MICRO_BATCH = 32  # enough for batch norm; larger ones are no faster on a CPU
_LEAST = 4  # micro-batches of two and three may grow to this (order.py)
# Kernels that count elements in 32 bits refuse larger tensors or, worse, leave their memory
# (pytorch issues 80020, 113833). VGG's first maps at 224 px get there with 669 images.
_MOST_ELEMENTS = 2**31 - 1


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
    with sync_errors(accelerator):
        per_image = largest_map(model, config.image_size, accelerator.device)
        while size * per_image > _MOST_ELEMENTS or not _fits(
            model, size, config, accelerator, queued_bytes(splits, size, config)
        ):
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


def check_kernels(model: nn.Module, size: int, config: TrainConfig, device: torch.device) -> None:
    """Raise `UserError` where a GPU's kernels cannot count the elements of a micro-batch's maps."""
    per_image = largest_map(model, config.image_size, device)
    if size * per_image > _MOST_ELEMENTS:
        raise UserError(
            f"micro-batches of {size} give {config.arch} maps of {size * per_image / 1e9:.1f} "
            f"billion elements; kernels of GPUs count to 2.1 billion: --micro-batch-size "
            f"{_MOST_ELEMENTS // per_image} is the most, or leave it out"
        )


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


@torch.no_grad()
def largest_map(model: nn.Module, side: int, device: torch.device) -> int:
    """Elements of the largest output of any layer of `model`, for one image."""
    sizes = [0]

    def note(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel())

    handles = [layer.register_forward_hook(note) for layer in model.modules()]
    was_training = model.training
    try:
        model.eval()(torch.zeros(1, 3, side, side, device=device))  # moves no running statistics
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return max(sizes)


def _fits(
    model: nn.Module, size: int, config: TrainConfig, accelerator: Accelerator, queued: int
) -> bool:
    device = accelerator.device
    torch.cuda.reset_peak_memory_stats(device)
    try:
        weights, images = _try_step(model, size, config.image_size, accelerator)
    except torch.OutOfMemoryError:
        fits = False
    else:
        # DDP's buckets and each of the optimizer's moments take the parameters' size again.
        # Averaged weights are there already, and torch.compile needs less than this try.
        moments = 1 if config.optimizer == "sgd" else 2
        # The photometry of the next batch, in floats, while this one is still held; mixing holds
        # the partners, the weights and the result.
        reserve = (1 + moments) * weights + (9 if config.mixes else 6) * images + queued
        free, total = torch.cuda.mem_get_info(device)
        others = total - free - torch.cuda.memory_reserved(device)
        fits = total - others - torch.cuda.max_memory_allocated(device) > reserve
    torch.cuda.empty_cache()  # DALI and NCCL cannot use what torch keeps for itself
    return fits


def _try_step(model: nn.Module, size: int, side: int, accelerator: Accelerator) -> tuple[int, int]:
    """Bytes of the parameters and of a batch of images; what the try takes goes when it returns."""
    trial = copy.deepcopy(model)  # the try must leave no trace in running statistics
    images = torch.zeros(size, 3, side, side, device=accelerator.device)
    images = images.contiguous(memory_format=torch.channels_last)  # as the loader gives them
    with accelerator.autocast():
        loss = trial(images).float().square().mean()
    loss.backward()
    weights = sum(p.numel() * p.element_size() for p in trial.parameters())
    return weights, images.numel() * images.element_size()
