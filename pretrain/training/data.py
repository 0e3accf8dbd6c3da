"""The data of a training: its two splits, the order of its samples, and its loaders."""

from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from micrograph.cli import UserError, console
from pretrain.config import TrainConfig
from pretrain.loading.loader import Loader
from pretrain.loading.open_sources import Source, open_sources
from pretrain.loading.sample_order import EpochSampler, Ids
from pretrain.loading.shard_reader import ShardReader, open_split
from pretrain.runs.phases import announce
from pretrain.training.distributed import processes_here, thread_count


def open_splits(config: TrainConfig, folder: Path) -> tuple[ShardReader, ShardReader]:
    """The training and the validation split. Raises `UserError` when one cannot be used."""
    announce("read_data")
    train_data, val_data = open_split(folder, "train"), open_split(folder, "val")
    classes = len(train_data.manifest.classes)
    if classes < 2 or not len(val_data) or not len(train_data):
        raise UserError(
            f"{config.shards} has {classes} classes, {len(train_data)} training and "
            f"{len(val_data)} validation images; training needs two classes and both splits"
        )
    return train_data, val_data


def build_sampler(
    config: TrainConfig, labels: Ids, micro_batch_size: int, accelerator: Accelerator
) -> EpochSampler:
    """The order of the training images. Raises `UserError` when the processes are too many."""
    samples, world = len(labels), accelerator.num_processes
    sampler = EpochSampler(
        samples=samples,
        batch_size=config.batch_size,
        micro_batch_size=micro_batch_size,
        seed=config.seed,
        labels=labels,
        balance=config.class_balance_power,
    )
    if samples // sampler.steps_per_epoch < 2 * world:
        raise UserError(
            f"{samples} training images in batches of {config.batch_size} leave a process of "
            f"{world} without two images; use a larger --batch-size or fewer processes"
        )
    return sampler


def open_split_sources(
    splits: Sequence[ShardReader], config: TrainConfig, accelerator: Accelerator
) -> list[Source]:
    """Decide how each split is decoded and cached; process 0 prints the decisions."""
    here, threads = processes_here(accelerator), thread_count(config.loader_threads, accelerator)
    sources = open_sources(splits, config, accelerator.device, here, threads)
    if accelerator.is_main_process:
        for source in sources:
            console.print(source.summary, markup=False, soft_wrap=True)
    return sources


def build_loader(
    source: Source, config: TrainConfig, accelerator: Accelerator, micro_batch_size: int
) -> Loader:
    """This process's loader of a split, for micro-batches up to this size."""
    return Loader(
        source.data,
        config,
        micro_batch_size=micro_batch_size,
        device=accelerator.device,
        threads=thread_count(config.loader_threads, accelerator),
        decode=source.decode.name,
        image_cache=source.image_cache,
    )
