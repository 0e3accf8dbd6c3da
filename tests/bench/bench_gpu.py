"""Everything about speed that only a GPU can tell, in one go.

    python tests/bench/bench_gpu.py [--corpus DIR]                 a quarter of an hour
    python tests/bench/bench_gpu.py --parts training --archs resnet50 --trace trace

training: the trainer's own epoch (bf16, channels last, all guards) on one fixed batch, on full-size
micrographs as they stream, and on 512-px ones kept decoded; eager and compiled. The share of the
fixed batch's rate and of waiting for data are what the loader costs.
loader: the loader alone. questions: of DALI's decoders (gpu_questions.py).

Without --corpus and MICROGRAPHS, micrographs are drawn. `--device cpu` tries out the program.
"""

import argparse
import itertools
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from gpu_questions import CORPUS, micrographs
from torch.profiler import ProfilerActivity, profile

from pretrain.checkpoint import Progress
from pretrain.config import TrainConfig
from pretrain.guards import Statistics
from pretrain.loader import Loader, Step
from pretrain.memory import fit_micro_batch
from pretrain.model import build_classifier
from pretrain.objective import build_objective
from pretrain.optim import build_optimizer
from pretrain.order import Plan
from pretrain.pace import Pace
from pretrain.processes import Interruption, start_accelerator, thread_count
from pretrain.run import Run
from pretrain.source import open_sources
from pretrain.store import open_split
from pretrain.train import Training, train_epoch
from shards.cli import cores
from shards.write import JPEG_MAX_SIDE, WriteConfig, write_shards

PARTS = ("training", "loader", "questions")
PUBLISHED = (
    "ResNet-50 elsewhere, images/s: 2,470 NVIDIA's DeepLearningExamples (one A100, DALI, AMP), "
    "about 2,600 timm (A100, synthetic), about 3,040 per A100 FFCV (160 to 192 px)"
)
WARM_UP = 4  # steps: kernels are chosen, the queue is full
EPOCH = 88_000  # images, as MicroNet's; ids lead to those there are by their remainder
LOADER_BATCH = 256
TRACED = 5  # steps
KERNELS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder per class [drawn]")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--archs", nargs="+", default=["resnet50", "efficientnet-b4", "resnet18"])
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="bf16")
    parser.add_argument("--eager-only", action="store_true", help="without torch.compile")
    parser.add_argument("--trace", type=Path, help="folder for Chrome traces of a few steps")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    options = parser.parse_args()
    _tell_machine(options.device)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = micrographs(options.corpus, Path(scratch))
        sets = _shard_sets(corpus, Path(scratch)) if set(options.parts) - {"questions"} else {}
        if "training" in options.parts:
            _measure_training(options, sets, Path(scratch))
        if "loader" in options.parts:
            _measure_loader(options, sets)
        if "questions" in options.parts:
            script = Path(__file__).with_name("gpu_questions.py")
            flags = ["--corpus", str(corpus), "--device", options.device]
            subprocess.run([sys.executable, str(script), *flags], check=True)


def _tell_machine(device: str) -> None:
    if device == "gpu":
        gpu = torch.cuda.get_device_properties(0)
        print(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
    names = ("torch", "nvidia-dali-cuda130", "nvidia-nvimgcodec-cu13", "accelerate")
    known = [f"{name} {_version(name)}" for name in names]
    print(
        ", ".join([f"{cores()} cores", f"Python {platform.python_version()}", *known]), flush=True
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return "under another name"


def _shard_sets(corpus: Path, scratch: Path) -> dict[str, Path]:
    sets = {"full size": JPEG_MAX_SIDE, "512 px": 512}
    for name, side in sets.items():
        out = scratch / name.replace(" ", "-")
        write_shards(
            WriteConfig(
                source=str(corpus),
                out=str(out),
                max_side=side,
                near_duplicates=False,
                report=False,
            )
        )
        index = open_split(out, "train").index
        mean = (index["height"].astype(float) * index["width"]).mean() / 1e6
        print(f"{name}: {len(index)} images, {mean:.2f} megapixels in the mean", flush=True)
    return {name: scratch / name.replace(" ", "-") for name in sets}


def _config(**settings: Any) -> TrainConfig:
    # No guard may end a measurement, and no checkpoint fall into it.
    never = {"skip_limit": 10**6, "loss_limit": 1e9, "checkpoint_minutes": 1e9}
    return TrainConfig(**({"arch": "resnet50"} | never | settings))


def _measure_training(options: argparse.Namespace, sets: dict[str, Path], scratch: Path) -> None:
    print(f"\ntraining, {options.precision}, {options.image_size} px, batch {options.batch_size}")
    print(PUBLISHED)
    print(f"{'':44}{'images/s':>10}{'of fixed':>10}{'waiting':>9}   aim: over 95 %, under 3 %")
    for arch, compiled in itertools.product(options.archs, (False, True)):
        if compiled and options.eager_only:
            continue
        config = _config(
            arch=arch,
            batch_size=options.batch_size,
            image_size=options.image_size,
            precision=options.precision,
            compile=compiled,
            device=options.device,
            shards=str(sets["full size"]),
            run_dir=scratch / "runs" / f"{arch}-{compiled}",
        )
        _train(config, sets, options.seconds, options.trace)


def _train(config: TrainConfig, sets: dict[str, Path], seconds: float, trace: Path | None) -> None:
    ways = {
        "full size, streaming": replace(config, resident="never"),
        "512 px, resident": replace(config, resident="always", shards=str(sets["512 px"])),
    }
    accelerator = start_accelerator(config)
    manifest = open_split(sets["full size"], "train").manifest
    with Interruption() as interruption, Run(config, accelerator, manifest, interruption) as run:
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
        labels = sources["512 px, resident"].data.index["label"].astype("int64")
        training = Training(
            config=config,
            accelerator=accelerator,
            run=run,
            plan=Plan(samples=0, batch_size=config.batch_size, micro_batch_size=size, seed=0),
            pace=Pace(1, 1, visible=False),
            objective=build_objective(config, labels, classes, device),
            model=model,
            optimizer=optimizer,
            ema=None,
            statistics=Statistics(model),
        )
        name = f"{config.arch}{', compiled' if config.compile else ''}, micro-batches of {size}"
        print(name, flush=True)
        fixed = 0.0
        for way, source in sources.items():
            loader = Loader(
                source.data,
                config,
                micro_batch_size=size,
                device=device,
                threads=threads,
                decode=source.decode.name,
                arena=source.arena,
            )
            if not fixed:
                fixed, _ = _rate(training, _Fixed(loader), seconds, None)
                print(f"    {'a fixed batch':40}{fixed:>10,.0f}", flush=True)
            file = trace and trace / f"{config.arch}-{config.compile}-{way.split(',')[0]}.json"
            rate, wait = _rate(training, _Endless(loader), seconds, file)
            numbers = f"{rate:>10,.0f}{rate / fixed:>10.1%}{wait:>9.2%}"
            print(f"    {way:40}{numbers}   {source.told}; {threads} threads", flush=True)


class _Endless:
    """The steps of epochs of MicroNet's length, each caller's where the last one stopped."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._steps: Iterator[Step] | None = None

    def steps(self, plan: Plan, epoch: int, first: int, rank: int, world: int) -> Iterator[Step]:
        if self._steps is None:
            long = replace(plan, samples=EPOCH)
            self._steps = itertools.chain.from_iterable(
                self._loader.steps(long, number, 0, rank, world) for number in itertools.count()
            )
        return itertools.islice(self._steps, plan.steps_per_epoch)


class _Fixed:
    """Steps of one batch, again and again."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def steps(self, plan: Plan, epoch: int, first: int, rank: int, world: int) -> Iterator[Step]:
        (step,) = self._loader.steps(replace(plan, samples=plan.batch_size), 0, 0, rank, world)
        batch = next(step.batches)
        for number in range(plan.steps_per_epoch):
            yield Step(number, len(batch.ids) * step.slots, step.slots, iter([batch] * step.slots))


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
    plan = replace(training.plan, samples=steps * training.config.batch_size)
    return train_epoch(replace(training, plan=plan), loader, Progress())[1]


def _profile(training: Training, loader: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    on_gpu = training.accelerator.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as profiler:
        _steps(training, loader, TRACED)
    profiler.export_chrome_trace(str(file))
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=KERNELS, max_name_column_width=50))


def _measure_loader(options: argparse.Namespace, sets: dict[str, Path]) -> None:
    print(f"\nloader alone, {options.image_size} px, batches of {LOADER_BATCH}", flush=True)
    print("aim: over 10,000 images/s decoding, over 100,000 from memory")
    for (name, folder), resident in itertools.product(sets.items(), ("never", "always")):
        config = _config(
            image_size=options.image_size,
            resident=resident,
            device=options.device,
            precision=options.precision,  # accelerate takes one for all parts
        )
        accelerator = start_accelerator(config)
        threads = thread_count(None, accelerator)
        split = open_split(folder, "train")
        (source,) = open_sources([split], config, accelerator.device, 1, threads)
        loader = Loader(
            source.data,
            config,
            micro_batch_size=LOADER_BATCH,
            device=accelerator.device,
            threads=threads,
            decode=source.decode.name,
            arena=source.arena,
        )
        rate = _loader_rate(loader, options.seconds, accelerator.device)
        way = f"{name}, {'resident' if resident == 'always' else 'streaming'}"
        print(f"    {way:40}{rate:>10,.0f}   {source.told}; {threads} threads", flush=True)


def _loader_rate(loader: Loader, seconds: float, device: torch.device) -> float:
    plan = Plan(samples=2**40, batch_size=LOADER_BATCH, micro_batch_size=LOADER_BATCH, seed=0)
    steps = _Endless(loader).steps(plan, 0, 0, 0, 1)
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
