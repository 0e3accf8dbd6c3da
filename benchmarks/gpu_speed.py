"""One measurement of speed on a GPU, in a process of its own; bench_gpu.py starts them.

python benchmarks/gpu_speed.py loader FOLDER streaming|cached --shards SET
python benchmarks/gpu_speed.py training ARCH eager|compiled --shards SET --small SET
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from pretrain.config import TrainConfig
from pretrain.loading.loader import Batch, Loader, Step
from pretrain.loading.open_sources import Source, open_sources
from pretrain.loading.sample_order import EpochSampler
from pretrain.loading.shard_reader import open_split
from pretrain.network.classifier import build_classifier
from pretrain.runs.interruption import Interruption
from pretrain.runs.skips import BufferSnapshot
from pretrain.runs.throughput import ThroughputMeter
from pretrain.train import Training, train_epoch
from pretrain.training.distributed import start_accelerator, thread_count
from pretrain.training.loss import build_objective
from pretrain.training.micro_batch import fit_micro_batch
from pretrain.training.optim import build_optimizer
from pretrain.training.progress import Progress
from pretrain.training.run import TrainingRun

WARM_UP = 4  # steps: kernels are chosen, the queue is full
EPOCH = 88_000  # images, about as MicroNet's; ids lead to those there are by their remainder
LOADER_BATCH = 256
TRACED = 5  # steps
KERNELS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_settings(parser)
    parser.add_argument("part", choices=("loader", "training"))
    parser.add_argument("what", help="of training, the arch; of the loader, the name of the set")
    parser.add_argument("how", help="eager or compiled; streaming or cached")
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--small", type=Path, help="what training keeps decoded")
    parser.add_argument("--gpu-decode", choices=("auto", "always", "never"), default="auto")
    options = parser.parse_args()
    if options.part == "loader":
        _measure_loader(options)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            _measure_training(options, Path(scratch))


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The settings that all measurements share."""
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="bf16")
    parser.add_argument("--trace", type=Path, help="folder for Chrome traces of a few steps")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")


def _measure_loader(options: argparse.Namespace) -> None:
    config = _config(
        image_size=options.image_size,
        cache_images="always" if options.how == "cached" else "never",
        device=options.device,
        gpu_decode=options.gpu_decode,
    )
    accelerator = start_accelerator(config)
    threads = thread_count(None, accelerator)
    split = open_split(options.shards, "train")
    (source,) = open_sources([split], config, accelerator.device, 1, threads)
    loader = _loader(source, config, LOADER_BATCH, accelerator.device, threads)
    rate = _loader_rate(loader, options.seconds, accelerator.device)
    way = f"{options.what}, {options.how}"
    print(f"    {way:40}{rate:>10,.0f}   {source.summary}; {threads} threads", flush=True)


def _measure_training(options: argparse.Namespace, scratch: Path) -> None:
    config = _config(
        arch=options.what,
        batch_size=options.batch_size,
        image_size=options.image_size,
        precision=options.precision,
        compile=options.how == "compiled",
        device=options.device,
        gpu_decode=options.gpu_decode,
        shards=str(options.shards),
        run_dir=scratch / "run",
    )
    ways = {
        "full size, streaming": replace(config, cache_images="never"),
        "512 px, cached": replace(config, cache_images="always", shards=str(options.small)),
    }
    accelerator = start_accelerator(config)
    manifest = open_split(Path(config.shards), "train").manifest
    with (
        Interruption() as interruption,
        TrainingRun(config, accelerator, manifest, interruption) as run,
    ):
        device, classes = accelerator.device, len(manifest.classes)
        model: Any = build_classifier(config.arch, "random", classes, config.dropout)
        model.to(device, memory_format=torch.channels_last)
        optimizer: Any = build_optimizer(model, config)
        threads = thread_count(None, accelerator)
        sources = {}
        for name, way in ways.items():
            split = open_split(Path(way.shards), "train")
            (sources[name],) = open_sources([split], way, device, 1, threads)
        splits = [source.data for source in sources.values()]
        size = fit_micro_batch(model, config, accelerator, splits)
        if config.compile:
            model.compile()
        model, optimizer = accelerator.prepare(model, optimizer)
        labels = sources["512 px, cached"].data.index["label"].astype("int64")
        training = Training(
            config=config,
            accelerator=accelerator,
            run=run,
            sampler=EpochSampler(
                samples=0, batch_size=config.batch_size, micro_batch_size=size, seed=0
            ),
            meter=ThroughputMeter(1, 1, visible=False),
            objective=build_objective(config, labels, classes, device),
            model=model,
            optimizer=optimizer,
            ema=None,
            snapshot=BufferSnapshot(model),
        )
        name = f"{config.arch}{', compiled' if config.compile else ''}, micro-batches of {size}"
        print(name, flush=True)
        fixed = 0.0
        for title, source in sources.items():
            loader = _loader(source, config, size, device, threads)
            if not fixed:
                fixed, _ = _rate(training, _Fixed(loader), options.seconds, None)
                print(f"    {'a fixed batch':40}{fixed:>10,.0f}", flush=True)
            file = (
                options.trace
                and options.trace / f"{options.what}-{options.how}-{title.split(',')[0]}.json"
            )
            rate, wait = _rate(training, _Endless(loader), options.seconds, file)
            numbers = f"{rate:>10,.0f}{rate / fixed:>10.1%}{wait:>9.2%}"
            print(f"    {title:40}{numbers}   {source.summary}; {threads} threads", flush=True)


def _config(**settings: Any) -> TrainConfig:
    # No guard may end a measurement, and no checkpoint fall into it.
    never = {"max_skipped_steps": 10**6, "divergence_ratio": 1e9, "checkpoint_minutes": 1e9}
    return TrainConfig(**({"arch": "resnet50"} | never | settings))


def _loader(
    source: Source, config: TrainConfig, size: int, device: torch.device, threads: int
) -> Loader:
    return Loader(
        source.data,
        config,
        micro_batch_size=size,
        device=device,
        threads=threads,
        decode=source.decode.name,
        image_cache=source.image_cache,
    )


class _Endless:
    """The steps of epochs of MicroNet's length, each caller's where the last one stopped."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._steps: Iterator[Step] | None = None

    def steps(
        self, sampler: EpochSampler, epoch: int, first: int, rank: int, world: int
    ) -> Iterator[Step]:
        if self._steps is None:
            # Batches of one size: another would be compiled for, or tried out, while time runs.
            epoch = max(1, EPOCH // sampler.batch_size) * sampler.batch_size
            long = replace(sampler, samples=epoch)
            self._steps = itertools.chain.from_iterable(
                self._loader.steps(long, number, 0, rank, world) for number in itertools.count()
            )
        return itertools.islice(self._steps, sampler.steps_per_epoch)


class _Fixed:
    """Steps of one batch, again and again."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._step: tuple[Batch, int] | None = None

    def steps(
        self, sampler: EpochSampler, epoch: int, first: int, rank: int, world: int
    ) -> Iterator[Step]:
        if self._step is None:
            (step,) = self._loader.steps(
                replace(sampler, samples=sampler.batch_size), 0, 0, rank, world
            )
            self._step = next(step.batches), step.micro_batches
        batch, slots = self._step
        for number in range(sampler.steps_per_epoch):
            yield Step(number, len(batch.ids) * slots, slots, iter([batch] * slots))


def _rate(
    training: Training, loader: Any, seconds: float, trace: Path | None
) -> tuple[float, float]:
    """Images per second, and the share of waiting for data."""
    measured = _steps(training, loader, WARM_UP)
    measured = _steps(training, loader, WARM_UP)  # not a compiler's time
    if trace is not None:
        _profile(training, loader, trace)
    steps = seconds * measured["images_per_second"] / training.config.batch_size
    measured = _steps(training, loader, max(WARM_UP, round(steps)))
    return measured["images_per_second"], measured["data_wait"]


def _steps(training: Training, loader: Any, steps: int) -> dict[str, float]:
    sampler = replace(training.sampler, samples=steps * training.config.batch_size)
    return train_epoch(replace(training, sampler=sampler), loader, Progress())[1]


def _profile(training: Training, loader: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    on_gpu = training.accelerator.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as profiler:
        _steps(training, loader, TRACED)
    profiler.export_chrome_trace(str(file))
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=KERNELS, max_name_column_width=50))


def _loader_rate(loader: Loader, seconds: float, device: torch.device) -> float:
    sampler = EpochSampler(
        samples=2**40, batch_size=LOADER_BATCH, micro_batch_size=LOADER_BATCH, seed=0
    )
    steps = _Endless(loader).steps(sampler, 0, 0, 0, 1)
    batches = (batch for step in steps for batch in step.batches)
    _take(batches, LOADER_BATCH * WARM_UP, device)
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        done += _take(batches, LOADER_BATCH * WARM_UP, device)
    return done / passed


def _take(batches: Iterator[Any], images: int, device: torch.device) -> int:
    done = 0
    while done < images:
        done += len(next(batches).ids)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return done


if __name__ == "__main__":
    main()
