"""The micro-batch size: as configured, as before a resume, or the largest that fits on the GPU."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from micrograph.cli import UserError, console, warn
from pretrain.config import TrainConfig
from pretrain.loading.cpu_pipeline import PREFETCH
from pretrain.loading.shard_reader import ShardReader
from pretrain.training.distributed import sync_errors
from pretrain.training.progress import Progress

CPU_MICRO_BATCH = 32  # enough for batch norm; larger ones are no faster on a CPU
_LEAST = 4  # micro-batches of two and three may grow to this (sample_order.py)
# Kernels that count elements in 32 bits refuse larger tensors or, worse, write beyond their memory
# (pytorch issues 80020, 113833). VGG's first maps at 224 px get there with 669 images.
_MOST_ELEMENTS = 2**31 - 1
_ENOUGH_FOR_NORMS = 8  # Wu and He 2018, "Group normalization", figure 1: with fewer, errors grow


def choose_micro_batch(
    model: nn.Module,
    config: TrainConfig,
    progress: Progress,
    accelerator: Accelerator,
    splits: Sequence[ShardReader],
) -> Progress:
    """Progress with the micro-batch size: as configured, else as before, else what fits.

    Raises `UserError` for one that the GPU's kernels cannot take.
    """
    before = progress.micro_batch_size
    size = config.micro_batch_size or before or fit_micro_batch(model, config, accelerator, splits)
    if accelerator.device.type == "cuda":
        check_kernels(model, size, config, accelerator.device)
    if accelerator.is_main_process:
        seen_at_once = size * (accelerator.num_processes if config.sync_bn else 1)
        if warning := norm_warning(model, seen_at_once):
            warn(warning)
        if before not in (0, size):
            warn(
                f"the run had micro-batches of {before} and now has {size}: its numbers will be "
                "close to those of an uninterrupted run, but not the same"
            )
    return replace(progress, micro_batch_size=size, threads=torch.get_num_threads())


def fit_micro_batch(
    model: nn.Module, config: TrainConfig, accelerator: Accelerator, splits: Sequence[ShardReader]
) -> int:
    """The largest halving of a process's share of the batch that fits in memory.

    Memory for the batches that DALI prepares from `splits` stays free. All processes get the same
    size. Raises `UserError` if not even a few images fit.
    """
    share = max(1, config.batch_size // int(accelerator.num_processes))
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
    """Raise `UserError` if a micro-batch gives feature maps too large for the GPU's kernels."""
    per_image = largest_map(model, config.image_size, device)
    if size * per_image > _MOST_ELEMENTS:
        raise UserError(
            f"micro-batches of {size} give {config.arch} maps of {size * per_image / 1e9:.1f} "
            f"billion elements; kernels of GPUs count to 2.1 billion: --micro-batch-size "
            f"{_MOST_ELEMENTS // per_image} is the most, or leave it out"
        )


def norm_warning(model: nn.Module, images: int) -> str:
    """A warning when batch norm sees so few images at a time that it harms; else empty."""
    norms = any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    if not norms or images >= _ENOUGH_FOR_NORMS:
        return ""
    return (
        f"batch norm sees {images} images at a time, and fewer than {_ENOUGH_FOR_NORMS} make poor "
        "statistics: use a larger --micro-batch-size, if need be with a smaller --image-size, "
        "--sync-bn on several GPUs, or an encoder without batch norm"
    )


def queued_bytes(splits: Sequence[ShardReader], size: int, config: TrainConfig) -> int:
    """The most GPU memory that DALI needs for batches of `size` from each split, in bytes.

    Counts the prefetched batches and the one being made: stored images (copies of cached ones),
    their resized version (larger than the crop before a rotation) and the rotated one. A decoder
    on the GPU needs two more bytes per pixel of its batch for coefficients.
    """
    total = 0
    for data in splits:
        channels = data.manifest.channels
        pixels = data.index["height"].astype(np.int64) * data.index["width"].astype(np.int64)
        stored = int(np.sort(pixels)[-size:].sum()) * channels
        shaped = (2 + 1) * size * config.image_size**2 * channels  # at 45 degrees, twice the area
        total += (PREFETCH + 1) * (stored + shaped) + 2 * stored
    return total


@torch.no_grad()
def largest_map(model: nn.Module, side: int, device: torch.device) -> int:
    """Elements of the largest output of any layer of `model`, for one image."""
    sizes = [0]

    def record(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel())

    handles = [layer.register_forward_hook(record) for layer in model.modules()]
    was_training = model.training
    try:
        model.eval()(torch.zeros(1, 3, side, side, device=device))  # eval: running statistics stay
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
        # DDP's buckets and each moment of the optimizer need the size of the parameters once more.
        # Averaged weights are allocated already, and torch.compile needs less than this trial.
        moments = 1 if config.optimizer == "sgd" else 2
        # The next batch's photometry, as floats, while this batch is still in use; mixing needs the
        # partners, the weights and the result.
        reserve = (1 + moments) * weights + (9 if config.mixes else 6) * images + queued
        free, total = torch.cuda.mem_get_info(device)
        others = total - free - torch.cuda.memory_reserved(device)
        fits = total - others - torch.cuda.max_memory_allocated(device) > reserve
    torch.cuda.empty_cache()  # DALI and NCCL cannot use memory that torch caches
    return fits


def _try_step(model: nn.Module, size: int, side: int, accelerator: Accelerator) -> tuple[int, int]:
    """Run one step and return the bytes of the parameters and of a batch; frees what it used."""
    trial = copy.deepcopy(model)  # the trial must not change running statistics
    images = torch.zeros(size, 3, side, side, device=accelerator.device)
    images = images.contiguous(memory_format=torch.channels_last)  # as from the loader
    with accelerator.autocast():
        loss = trial(images).float().square().mean()
    loss.backward()
    weights = sum(p.numel() * p.element_size() for p in trial.parameters())
    return weights, images.numel() * images.element_size()
