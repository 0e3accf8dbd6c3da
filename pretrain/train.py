"""Shards become an encoder: the training loop, from the command line to the last checkpoint.

accelerate launch pretrain/train.py --arch efficientnet-b4
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from micrograph.cli import UserError, console, log_with_time_and_rank, program, warn
from micrograph.settings import load_config
from pretrain.config import TrainConfig
from pretrain.loading.loader import Loader, Step
from pretrain.loading.open_sources import Source, open_sources
from pretrain.loading.sample_order import EpochSampler, Ids, micro_batch_seed
from pretrain.loading.shard_reader import ShardReader, open_split
from pretrain.loading.staging import stage
from pretrain.network.classifier import build_classifier
from pretrain.outputs.run_folder import pin_init
from pretrain.runs.interruption import Interruption
from pretrain.runs.phases import announce
from pretrain.runs.skips import BufferSnapshot
from pretrain.runs.status import record_interruption
from pretrain.runs.throughput import ThroughputMeter
from pretrain.training.distributed import (
    abort_all,
    processes_here,
    start_accelerator,
    sum_over,
    sync_errors,
    synchronise_norms,
    thread_count,
)
from pretrain.training.divergence import (
    Diverged,
    check_divergence,
    count_step,
    gradient_norm,
    norm_warning,
)
from pretrain.training.ema import Ema, build_ema
from pretrain.training.loss import Objective, build_objective
from pretrain.training.micro_batch import check_kernels, fit_micro_batch
from pretrain.training.optim import build_optimizer, learning_rate, set_learning_rate
from pretrain.training.progress import Progress
from pretrain.training.run import TrainingRun
from pretrain.training.step_batches import StepBatches
from pretrain.training.validate import validate


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = pin_init(load_config(TrainConfig, argv))
    log_with_time_and_rank()
    with Interruption() as interruption:
        train(config, interruption)


def train(config: TrainConfig, interruption: Interruption) -> None:
    """Train to the end, or until interrupted; goes on where an earlier run in the folder ended."""
    announce("start")
    with record_interruption(config.run_folder):
        with interruption.at_once():
            folder = stage(config.shards, config.cache_dir)
        accelerator = start_accelerator(config)
        with sync_errors(accelerator, interruption):
            train_data, val_data = _open_splits(config, folder)
        run = TrainingRun(config, accelerator, train_data.manifest, interruption)
    with run:
        torch.manual_seed(config.seed)
        classes = len(train_data.manifest.classes)
        announce("build")
        with run.sync_errors():
            model: nn.Module = build_classifier(
                config.arch, config.init, classes, config.dropout, config.image_size
            )
        # A fifth faster on CPUs (ResNet-18, 112 px) and what tensor cores want on GPUs.
        model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer: Any = build_optimizer(model, config)
        ema = build_ema(model, config)
        run.average(ema)
        progress = run.resume(model, optimizer)
        if progress.finished:
            console.print(f"{run.paths.folder} is finished: {progress.finished}", markup=False)
            return
        with run.sync_errors():
            train_source, val_source = _sources((train_data, val_data), config, accelerator)
        micro_batch_size = _micro_batch_size(
            model, config, progress, accelerator, (train_data, val_data)
        )
        progress = replace(
            progress, micro_batch_size=micro_batch_size, threads=torch.get_num_threads()
        )
        if config.sync_bn:
            model = synchronise_norms(model, accelerator.num_processes, accelerator.device)
        if config.compile:
            model.compile()  # in place: names of parameters stay, copies made before are not
        model, optimizer = accelerator.prepare(model, optimizer)
        run.watch(model, optimizer, progress)
        labels = train_data.index["label"].astype(np.int64)
        sampler = _build_sampler(config, labels, micro_batch_size, accelerator)
        meter = ThroughputMeter(
            config.epochs,
            sampler.steps_per_epoch,
            visible=accelerator.is_main_process,
            between=run.seconds_between_epochs(),
        )
        objective = build_objective(config, labels, classes, accelerator.device)
        snapshot = BufferSnapshot(model)
        training = Training(
            config, accelerator, run, sampler, meter, objective, model, optimizer, ema, snapshot
        )
        with run.sync_errors():
            largest = max(micro_batch_size, sampler.largest_micro_batch(accelerator.num_processes))
            train_loader = _loader(train_source, config, accelerator, largest)
            val_loader = _loader(val_source, config, accelerator, micro_batch_size)
        while not progress.finished:
            try:
                progress, measured = train_epoch(training, train_loader, progress)
            except Diverged as fault:
                progress = run.roll_back(fault)
                continue
            shown = model if ema is None else ema.model
            scores = validate(
                shown, val_loader, classes, micro_batch_size, accelerator, lambda: run.interrupted
            )
            if scores is None:
                run.stop(progress)
            progress = run.end_epoch(progress, scores, measured)
        run.report(progress)


@dataclass(frozen=True, slots=True)
class Training:
    """What stays the same through all epochs."""

    config: TrainConfig
    accelerator: Accelerator
    run: TrainingRun
    sampler: EpochSampler
    meter: ThroughputMeter
    objective: Objective
    model: nn.Module
    optimizer: Any
    ema: Ema | None
    snapshot: BufferSnapshot


def train_epoch(
    training: Training, loader: Loader, progress: Progress
) -> tuple[Progress, dict[str, float]]:
    """Train the rest of an epoch; exits the program, saved, when it is asked to stop.

    Raises `Diverged` when the run must roll back. An error in the batches of one process ends all
    of them, saved.
    """
    config, accelerator, sampler, run = (
        training.config,
        training.accelerator,
        training.sampler,
        training.run,
    )
    announce("epoch")
    rank, world = accelerator.process_index, accelerator.num_processes
    steps_per_epoch, epoch = sampler.steps_per_epoch, progress.epoch
    steps = loader.steps(sampler, epoch, progress.step, rank, world)
    for step in training.meter.watch(steps, epoch, progress.step):
        lr = progress.lr_factor * learning_rate(config, epoch, step.number, steps_per_epoch)
        set_learning_rate(training.optimizer, lr)
        training.snapshot.save()
        batches = StepBatches(step, config.image_size, accelerator.device)
        loss_sum = add_gradients(training, step, batches, epoch)
        # One small reduction: the loss, and whether any process wants to stop, save or fail.
        flags = torch.tensor(
            [
                loss_sum,
                gradient_norm(training.model, accelerator),
                float(run.interrupted),
                float(run.checkpoint_due),
                float(batches.fault is not None),
            ],
            dtype=torch.float64,
        )
        loss_sum, norm, stop, save, faults = sum_over(accelerator, flags).tolist()
        if faults:
            training.snapshot.restore()
            run.save(progress)
            abort_all(batches.fault)
        sound = math.isfinite(loss_sum) and math.isfinite(norm)
        if not (sound and take_step(training, epoch, step)):
            training.snapshot.restore()
        progress = count_step(progress, step.samples, loss_sum, sound=sound)
        check_divergence(config, progress, loss_sum / step.samples)
        if stop:
            run.stop(progress)
        if save:
            run.save(progress)
    return progress, {
        "lr": progress.lr_factor
        * learning_rate(config, epoch, steps_per_epoch - 1, steps_per_epoch),
        "train_loss": progress.loss_sum / max(1, sampler.samples - progress.skipped_samples),
        **training.meter.measured(),
    }


def add_gradients(training: Training, step: Step, batches: StepBatches, epoch: int) -> float:
    """Gradients of this process's part of the global batch; returns its summed loss."""
    announce("step")
    config, accelerator, model = training.config, training.accelerator, training.model
    rank, world = accelerator.process_index, accelerator.num_processes
    training.optimizer.zero_grad(set_to_none=True)
    loss_sum = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    for position, batch in enumerate(batches):
        torch.manual_seed(
            micro_batch_seed(config.seed, epoch, step.number, position * world + rank)
        )
        is_last = position == step.micro_batches - 1
        with nullcontext() if is_last else accelerator.no_sync(model):
            loss = training.objective(model, batch, epoch)
            # DDP averages over processes; the sum over them, per sample of the global batch, is
            # the gradient that one process with all samples would have.
            accelerator.backward(loss * (world / step.samples))
        loss_sum += loss.detach().double()
        if batches.fault is None:
            training.run.record_ids(epoch, step.number, batch.ids)
    return float(loss_sum)


def take_step(training: Training, epoch: int, step: Step) -> bool:
    """Change the weights by the gradients, clipped if so configured.

    False where fp16's scaler found an overflow, left the weights alone and lowered its scale.
    """
    accelerator, clip = training.accelerator, training.config.clip_grad
    if clip is not None:
        accelerator.clip_grad_norm_(training.model.parameters(), clip)
    # accelerate's `step_was_skipped` does not notice when a fused optimiser leaves out a step.
    scale = None if accelerator.scaler is None else accelerator.scaler.get_scale()
    training.optimizer.step()
    if scale is not None and accelerator.scaler.get_scale() < scale:
        return False
    if training.ema is not None:
        plain = accelerator.unwrap_model(training.model)
        training.ema.update(plain, epoch, step.number, training.sampler.steps_per_epoch)
    return True


def _open_splits(config: TrainConfig, folder: Path) -> tuple[ShardReader, ShardReader]:
    announce("read_data")
    train_data, val_data = open_split(folder, "train"), open_split(folder, "val")
    classes = len(train_data.manifest.classes)
    if classes < 2 or not len(val_data) or not len(train_data):
        raise UserError(
            f"{config.shards} has {classes} classes, {len(train_data)} training and "
            f"{len(val_data)} validation images; training needs two classes and both splits"
        )
    return train_data, val_data


def _build_sampler(
    config: TrainConfig, labels: Ids, micro_batch_size: int, accelerator: Accelerator
) -> EpochSampler:
    announce("plan")
    samples = len(labels)
    sampler = EpochSampler(
        samples=samples,
        batch_size=config.batch_size,
        micro_batch_size=micro_batch_size,
        seed=config.seed,
        labels=labels,
        balance=config.class_balance_power,
    )
    world = accelerator.num_processes
    if samples // sampler.steps_per_epoch < 2 * world:
        raise UserError(
            f"{samples} training images in batches of {config.batch_size} leave a process of "
            f"{world} without two images; use a larger --batch-size or fewer processes"
        )
    return sampler


def _micro_batch_size(
    model: nn.Module,
    config: TrainConfig,
    progress: Progress,
    accelerator: Accelerator,
    splits: tuple[ShardReader, ShardReader],
) -> int:
    """As configured, else the run's own so far, else what fits."""
    before = progress.micro_batch_size
    size = config.micro_batch_size or before or fit_micro_batch(model, config, accelerator, splits)
    if accelerator.device.type == "cuda":
        check_kernels(model, size, config, accelerator.device)
    if not accelerator.is_main_process:
        return size
    seen_at_once = size * (accelerator.num_processes if config.sync_bn else 1)
    if warning := norm_warning(model, seen_at_once):
        warn(warning)
    if before not in (0, size):
        warn(
            f"the run had micro-batches of {before} and now has {size}: its numbers will be "
            "close to, not the same as, those of one never interrupted"
        )
    return size


def _sources(
    splits: tuple[ShardReader, ShardReader], config: TrainConfig, accelerator: Accelerator
) -> list[Source]:
    here, threads = processes_here(accelerator), thread_count(config.loader_threads, accelerator)
    sources = open_sources(splits, config, accelerator.device, here, threads)
    if accelerator.is_main_process:
        for source in sources:
            console.print(source.summary, markup=False, soft_wrap=True)
    return sources


def _loader(
    source: Source, config: TrainConfig, accelerator: Accelerator, micro_batch_size: int
) -> Loader:
    return Loader(
        source.data,
        config,
        micro_batch_size=micro_batch_size,
        device=accelerator.device,
        threads=thread_count(config.loader_threads, accelerator),
        decode=source.decode.name,
        image_cache=source.image_cache,
    )


if __name__ == "__main__":
    main()
