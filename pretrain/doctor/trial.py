"""Trains a few steps, to check memory and to estimate the time of the run."""

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from micrograph.cli import cores
from pretrain.config import TrainConfig
from pretrain.doctor.finding import Finding, Place, ok, warn
from pretrain.loading.image_cache import free_memory
from pretrain.loading.loader import Batch, Loader
from pretrain.loading.sample_order import EpochSampler
from pretrain.loading.shard_reader import ShardReader
from pretrain.loading.staging import stage
from pretrain.runs.throughput import duration
from pretrain.training.data import build_loader, build_sampler, open_split_sources, open_splits
from pretrain.training.distributed import start_accelerator, sum_over
from pretrain.training.ema import build_ema
from pretrain.training.loss import build_objective
from pretrain.training.micro_batch import choose_micro_batch
from pretrain.training.model import build_model, prepare_model
from pretrain.training.optim import build_optimizer
from pretrain.training.progress import Progress

_WARM_UP = 3  # micro-batches: kernels are chosen, memory is allocated, DALI's queue fills
_TIMED_SECONDS = 10.0
_TIMED_MOST, _TIMED_LEAST = 100, 3  # micro-batches
_MAX_DATA_WAIT = 0.05  # fraction of the time; more gives a warning
# Forward pass alone, relative to forward and backward, which costs about twice as much.
_VALIDATION_COST = 1 / 3


@dataclass(frozen=True, slots=True)
class Timing:
    """Measurements of a short training, over all processes."""

    images_per_second: float
    data_wait: float  # fraction of the time, in [0, 1]
    micro_batch_size: int


def check_training(config: TrainConfig, place: Place) -> list[Finding]:
    """Train a few steps on real batches, without saving anything; report memory and time."""
    splits = open_splits(config, stage(config.shards, config.cache_dir))
    accelerator = start_accelerator(config)
    timing = _train_a_little(config, splits, accelerator)
    findings = [_judge_memory(config, timing, accelerator)]
    rate = f"{timing.images_per_second:.0f} img/s, {timing.data_wait:.0%} waiting for data"
    if timing.data_wait > _MAX_DATA_WAIT:
        remedy = "more cores per process, a smaller --image-size, or shards of smaller images"
        findings.append(warn(rate, remedy, check="speed"))
    else:
        findings.append(ok(rate, check="speed"))
    images = len(splits[0]) + _VALIDATION_COST * len(splits[1])
    epoch = images / timing.images_per_second
    seconds = epoch * config.epochs
    hours = seconds / 3600
    if accelerator.device.type == "cuda":
        cost = f"{hours * place.world:.2f} GPU-hours"
    else:
        cost = f"{hours * cores() * place.world / place.local_world:.2f} core-hours"
    found = f"{duration(epoch)} per epoch; {config.epochs} epochs: {duration(seconds)}, {cost}"
    numbers = {"epoch_seconds": epoch, "run_seconds": seconds, "processes": place.world}
    time_found = ok(f"{found} at most; early stopping may end it sooner", check="time")
    return [*findings, replace(time_found, numbers=numbers)]


def _train_a_little(
    config: TrainConfig, splits: tuple[ShardReader, ShardReader], accelerator: Accelerator
) -> Timing:
    data, device = splits[0], accelerator.device
    classes = len(data.manifest.classes)
    model = build_model(replace(config, init="random"), classes, device)
    # As in training, validation images too: the memory that caches take is not free for the model.
    sources = open_split_sources(splits, config, accelerator)
    progress = choose_micro_batch(model, config, Progress(), accelerator, splits)
    size = progress.micro_batch_size
    optimizer: Any = build_optimizer(model, config)
    labels = data.index["label"].astype(np.int64)
    objective = build_objective(config, labels, classes, device)
    # Batches of one size: torch.compile would spend the time of all on a second.
    labels = labels[: len(labels) // config.batch_size * config.batch_size or len(labels)]
    sampler = build_sampler(config, labels, size, accelerator)
    largest = max(size, sampler.largest_micro_batch(accelerator.num_processes))
    loader = build_loader(sources[0], config, accelerator, largest)
    ema = build_ema(model, config)
    model, optimizer = prepare_model(model, optimizer, config, accelerator)
    batches = _endless(loader, sampler, accelerator)

    def train_on_next() -> tuple[int, float]:
        """Returns the number of images, and the seconds spent waiting for them."""
        asked = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - asked
        accelerator.backward(objective(model, batch, 0) / len(batch.ids))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if ema is not None:
            ema.update(accelerator.unwrap_model(model), 0, 0, 1)
        return len(batch.ids), waited

    for _ in range(_WARM_UP):
        train_on_next()
    # The same number for all processes: they add up gradients in each.
    timed = _batches_to_time(accelerator, train_on_next)
    started = time.monotonic()
    done = [train_on_next() for _ in range(timed)]
    _finish(accelerator)
    seconds = time.monotonic() - started
    images = torch.tensor([sum(images for images, _ in done) / seconds], dtype=torch.float32)
    return Timing(
        images_per_second=sum_over(accelerator, images).item(),
        data_wait=sum(waited for _, waited in done) / seconds,
        micro_batch_size=size,
    )


def _batches_to_time(accelerator: Accelerator, train: Callable[[], object]) -> int:
    started = time.monotonic()
    train()
    _finish(accelerator)
    seconds = torch.tensor([time.monotonic() - started], dtype=torch.float32)
    mean = sum_over(accelerator, seconds).item() / int(accelerator.num_processes)
    return max(_TIMED_LEAST, min(_TIMED_MOST, int(_TIMED_SECONDS / max(mean, 1e-3))))


def _finish(accelerator: Accelerator) -> None:
    """Wait for the GPU, which works asynchronously."""
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize(accelerator.device)


def _endless(loader: Loader, sampler: EpochSampler, accelerator: Accelerator) -> Iterator[Batch]:
    """This process's micro-batches, epoch after epoch, as the training would have them."""
    rank, world = accelerator.process_index, accelerator.num_processes
    for epoch in count():
        for step in loader.steps(sampler, epoch, 0, rank, world):
            yield from step.batches


def _judge_memory(config: TrainConfig, timing: Timing, accelerator: Accelerator) -> Finding:
    share = max(1, config.batch_size // int(accelerator.num_processes))
    size = timing.micro_batch_size
    found = f"micro-batches of {size}"
    if size < share:
        found += f", accumulated to batches of {config.batch_size}"
    if accelerator.device.type == "cuda":
        _, total = torch.cuda.mem_get_info(accelerator.device)
        peak = torch.cuda.max_memory_reserved(accelerator.device)
        found += f": {peak / 1e9:.1f} of {total / 1e9:.1f} GB GPU memory"
        return ok(found, check="memory")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    available = free_memory()
    found += f": {peak / 1e9:.1f} GB, {available / 1e9:.1f} GB more are free"
    if available < peak / 2:  # validation and caches need some more
        remedy = "use a smaller --micro-batch-size, or request more memory (--mem)"
        return warn(found, remedy, check="memory")
    return ok(found, check="memory")
