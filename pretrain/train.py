"""Shards become an encoder: the training loop, from the command line to the last checkpoint.

accelerate launch pretrain/train.py --arch efficientnet-b4
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from micrograph.cli import console, log_with_time_and_rank, program
from micrograph.settings import load_config
from pretrain.config import TrainConfig
from pretrain.loading.loader import Loader, Step
from pretrain.loading.sample_order import EpochSampler, micro_batch_seed
from pretrain.loading.staging import stage
from pretrain.outputs.run_folder import pin_init
from pretrain.runs.interruption import Interruption
from pretrain.runs.phases import announce
from pretrain.runs.skips import BufferSnapshot
from pretrain.runs.status import record_interruption
from pretrain.runs.throughput import ThroughputMeter
from pretrain.training.data import build_loader, build_sampler, open_split_sources, open_splits
from pretrain.training.distributed import abort_all, start_accelerator, sum_over, sync_errors
from pretrain.training.divergence import Diverged, check_divergence, count_step, gradient_norm
from pretrain.training.ema import Ema, build_ema
from pretrain.training.loss import Objective, build_objective
from pretrain.training.micro_batch import choose_micro_batch
from pretrain.training.model import build_model, prepare_model
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
    """Train until the run is finished or interrupted; resume a run that is in the folder."""
    announce("start")
    with record_interruption(config.run_folder):
        with interruption.at_once():
            folder = stage(config.shards, config.cache_dir)
        accelerator = start_accelerator(config)
        with sync_errors(accelerator, interruption):
            splits = open_splits(config, folder)
        manifest = splits[0].manifest
        run = TrainingRun(config, accelerator, manifest, interruption)
    with run:
        torch.manual_seed(config.seed)
        classes = len(manifest.classes)
        announce("build")
        with run.sync_errors():
            model = build_model(config, classes, accelerator.device)
        optimizer: Any = build_optimizer(model, config)
        ema = build_ema(model, config)
        progress = run.resume(model, optimizer, ema)
        if progress.finished:
            console.print(f"{run.paths.folder} is finished: {progress.finished}", markup=False)
            return
        with run.sync_errors():
            sources = open_split_sources(splits, config, accelerator)
        progress = choose_micro_batch(model, config, progress, accelerator, splits)
        size = progress.micro_batch_size
        model, optimizer = prepare_model(model, optimizer, config, accelerator)
        run.watch(model, optimizer, progress)
        labels = splits[0].index["label"].astype(np.int64)
        announce("plan")
        sampler = build_sampler(config, labels, size, accelerator)
        training = Training(
            config=config,
            accelerator=accelerator,
            run=run,
            sampler=sampler,
            meter=ThroughputMeter(
                config.epochs, sampler.steps_per_epoch, visible=accelerator.is_main_process
            ),
            objective=build_objective(config, labels, classes, accelerator.device),
            model=model,
            optimizer=optimizer,
            ema=ema,
            snapshot=BufferSnapshot(model),
        )
        with run.sync_errors():
            largest = max(size, sampler.largest_micro_batch(accelerator.num_processes))
            train_loader = build_loader(sources[0], config, accelerator, largest)
            val_loader = build_loader(sources[1], config, accelerator, size)
        while not progress.finished:
            try:
                progress, measured = train_epoch(training, train_loader, progress)
            except Diverged as fault:
                progress = run.roll_back(fault)
                continue
            kept = model if ema is None else ema.model
            scores = validate(kept, val_loader, classes, size, accelerator, run.is_interrupted)
            if scores is None:
                run.stop(progress)
            progress = run.end_epoch(progress, scores, measured)
        run.report(progress)


@dataclass(frozen=True, kw_only=True, slots=True)
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
    """Train the rest of an epoch; when the run is interrupted, save and exit.

    Raises `Diverged` when the run must roll back. An error in the batches of one process ends all
    of them, after a checkpoint.
    """
    config, run, accelerator = training.config, training.run, training.accelerator
    announce("epoch")
    rank, world = accelerator.process_index, accelerator.num_processes
    steps_per_epoch, epoch = training.sampler.steps_per_epoch, progress.epoch
    steps = loader.steps(training.sampler, epoch, progress.step, rank, world)
    for step in training.meter.watch(steps, epoch, progress.step):
        lr = progress.lr_factor * learning_rate(config, epoch, step.number, steps_per_epoch)
        set_learning_rate(training.optimizer, lr)
        training.snapshot.save()
        batches = StepBatches(step, config.image_size, accelerator.device)
        loss_sum = add_gradients(training, step, batches, epoch)
        # One small reduction: the loss, and whether any process wants to stop, save or fail.
        flags = [run.is_interrupted(), run.checkpoint_due, batches.fault is not None]
        values = [loss_sum, gradient_norm(training.model, accelerator), *map(float, flags)]
        reduced = sum_over(accelerator, torch.tensor(values, dtype=torch.float64))
        loss_sum, norm, stop, save, faults = reduced.tolist()
        if faults:
            training.snapshot.restore()
            run.save(progress)
            abort_all(batches.fault)
        finite = math.isfinite(loss_sum) and math.isfinite(norm)
        if not (finite and take_step(training, epoch, step)):
            training.snapshot.restore()
        progress = count_step(progress, step.samples, loss_sum, finite=finite)
        check_divergence(config, progress, loss_sum / step.samples)
        if stop:
            run.stop(progress)
        if save:
            run.save(progress)
    last_lr = learning_rate(config, epoch, steps_per_epoch - 1, steps_per_epoch)
    trained = max(1, training.sampler.samples - progress.skipped_samples)
    losses = {"lr": progress.lr_factor * last_lr, "train_loss": progress.loss_sum / trained}
    return progress, losses | training.meter.measured()


def add_gradients(training: Training, step: Step, batches: StepBatches, epoch: int) -> float:
    """Add the gradients of this process's part of the global batch; returns its summed loss."""
    announce("step")
    config, accelerator, model = training.config, training.accelerator, training.model
    rank, world = accelerator.process_index, accelerator.num_processes
    training.optimizer.zero_grad(set_to_none=True)
    loss_sum = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    for position, batch in enumerate(batches):
        number = position * world + rank
        torch.manual_seed(micro_batch_seed(config.seed, epoch, step.number, number))
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
    """Update the weights by the gradients, clipped if so configured.

    False when fp16's scaler found an overflow: it kept the weights and lowered its scale.
    """
    accelerator, clip = training.accelerator, training.config.clip_grad
    if clip is not None:
        accelerator.clip_grad_norm_(training.model.parameters(), clip)
    # accelerate's `step_was_skipped` does not notice when a fused optimizer skips a step.
    scale = None if accelerator.scaler is None else accelerator.scaler.get_scale()
    training.optimizer.step()
    if scale is not None and accelerator.scaler.get_scale() < scale:
        return False
    if training.ema is not None:
        model = accelerator.unwrap_model(training.model)
        training.ema.update(model, epoch, step.number, training.sampler.steps_per_epoch)
    return True


if __name__ == "__main__":
    main()
