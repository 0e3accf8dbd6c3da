"""Trains a few steps, to check memory and to estimate the time of the run."""

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from accelerate import Accelerator

from micrograph.cli import cores
from pretrain.config import TrainConfig
from pretrain.doctor.finding import Finding, Place
from pretrain.loading.image_cache import free_memory
from pretrain.loading.loader import Batch, Loader
from pretrain.loading.open_sources import open_sources
from pretrain.loading.sample_order import EpochSampler
from pretrain.loading.shard_reader import ShardReader, open_split
from pretrain.loading.staging import stage
from pretrain.network.classifier import build_classifier
from pretrain.runs.throughput import duration
from pretrain.training.distributed import (
    processes_here,
    start_accelerator,
    sum_over,
    synchronise_norms,
    thread_count,
)
from pretrain.training.ema import build_ema
from pretrain.training.loss import build_objective
from pretrain.training.micro_batch import fit_micro_batch
from pretrain.training.optim import build_optimizer

_WARM_UP = 3  # micro-batches: kernels are chosen, memory is taken, DALI's queue fills
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


def check_training(config: TrainConfig, place: Place) -> Iterator[Finding]:
    """Train a few steps on real batches, without saving anything; report memory and time."""
    folder = stage(config.shards, config.cache_dir)
    splits = open_split(folder, "train"), open_split(folder, "val")
    accelerator = start_accelerator(config)
    timing = _train_a_little(config, splits, accelerator)
    yield _judge_memory(config, timing, accelerator)
    rate = f"{timing.images_per_second:.0f} img/s, {timing.data_wait:.0%} waiting for data"
    if timing.data_wait > _MAX_DATA_WAIT:
        remedy = "more cores per process, a smaller --image-size, or shards of smaller images"
        yield Finding(check="speed", found=rate, level="warn", remedy=remedy)
    else:
        yield Finding(check="speed", found=rate)
    train_images, val_images = (len(split) for split in splits)
    epoch, seconds = estimate(config, train_images, val_images, timing.images_per_second)
    hours = seconds / 3600
    if accelerator.device.type == "cuda":
        cost = f"{hours * place.world:.2f} GPU-hours"
    else:
        cost = f"{hours * cores() * place.world / place.local_world:.2f} core-hours"
    found = f"{duration(epoch)} per epoch; {config.epochs} epochs: {duration(seconds)}, {cost}"
    yield Finding(
        check="time",
        found=f"{found} at most; early stopping may end it sooner",
        numbers={"epoch_seconds": epoch, "run_seconds": seconds, "processes": place.world},
    )


def estimate(
    config: TrainConfig, train_images: int, val_images: int, images_per_second: float
) -> tuple[float, float]:
    """Seconds per epoch, with validation, and of all epochs at this speed of training."""
    epoch = (train_images + _VALIDATION_COST * val_images) / images_per_second
    return epoch, epoch * config.epochs


def _train_a_little(
    config: TrainConfig, splits: tuple[ShardReader, ShardReader], accelerator: Accelerator
) -> Timing:
    data = splits[0]
    classes = len(data.manifest.classes)
    model: torch.nn.Module = build_classifier(
        config.arch, "random", classes, config.dropout, config.image_size
    )
    model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # As in training, validation images too: what is kept in memory is not there for the network.
    here, threads = processes_here(accelerator), thread_count(config.loader_threads, accelerator)
    sources = open_sources(splits, config, accelerator.device, here, threads)
    size = fit_micro_batch(model, config, accelerator, splits)
    optimizer = build_optimizer(model, config)
    labels = data.index["label"].astype(np.int64)
    objective = build_objective(config, labels, classes, accelerator.device)
    # Batches of one size: torch.compile would spend the time of all on a second.
    labels = labels[: len(labels) // config.batch_size * config.batch_size or len(labels)]
    sampler = EpochSampler(
        samples=len(labels),
        batch_size=config.batch_size,
        micro_batch_size=size,
        seed=config.seed,
        labels=labels,
        balance=config.class_balance_power,
    )
    loader = Loader(
        data,
        config,
        micro_batch_size=max(size, sampler.largest_micro_batch(accelerator.num_processes)),
        device=accelerator.device,
        threads=threads,
        decode=sources[0].decode.name,
        image_cache=sources[0].image_cache,
    )
    ema = build_ema(model, config)
    if config.sync_bn:
        model = synchronise_norms(model, accelerator.num_processes, accelerator.device)
    if config.compile:
        model.compile()
    model, optimizer = accelerator.prepare(model, optimizer)
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
        return Finding(check="memory", found=found)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    available = free_memory()
    found += f": {peak / 1e9:.1f} GB, {available / 1e9:.1f} GB more are free"
    if available < peak / 2:  # the doctor's own is taken already; validation and caches are not
        remedy = "use a smaller --micro-batch-size, or request more memory (--mem)"
        return Finding(check="memory", found=found, level="warn", remedy=remedy)
    return Finding(check="memory", found=found)
