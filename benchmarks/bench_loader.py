"""How fast the loader is on the CPU, side by side with what else could feed the same network.

    python benchmarks/bench_loader.py [--shards DIR | --corpus DIR] [--rounds N]

Ours, webdataset with torchvision v2 in a DataLoader, and litdata with the same transforms where it
is installed: 224-px batches from 512-px JPEGs, with paper A's augmentations at equal strength. The
rivals decode as we do (TurboJPEG, grey as one channel) and resize bytes; their workers are as many
as our threads. The ways take turns, so that a machine that changes from minute to minute changes
for all; the median of the turns stands in the table. Starting up is not timed. Then the trainer's
step, fed and unfed.
"""

import argparse
import functools
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import webdataset
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from micrograph.cli import cores
from pretrain.config import TrainConfig
from pretrain.loading.dali_pipeline import DaliPipeline
from pretrain.loading.image_cache import DecodedImageCache
from pretrain.loading.loader import Loader
from pretrain.loading.sample_order import EpochSampler
from pretrain.loading.shard_reader import ShardReader, open_split
from pretrain.network.classifier import build_classifier
from pretrain.runs.throughput import ThroughputMeter
from pretrain.training.optim import build_optimizer
from shards.shard_format.schema import IMAGENET_MEAN, IMAGENET_STD
from shards.write import WriteConfig, write_shards

BATCH = 32
WARM_UP = 12  # batches: past all that was made ahead
STEPS = 8  # of training, per way
CPU = torch.device("cpu")
CONFIG = TrainConfig(arch="resnet18", batch_size=BATCH)
QUARTER = replace(CONFIG, rotation_mode="quarter")

Batches = Iterator[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given = os.environ.get("MICROGRAPHS")
    parser.add_argument("--shards", type=Path, help="shard set [written from --corpus]")
    parser.add_argument(
        "--corpus", type=Path, default=given, help="folder per class [$MICROGRAPHS]"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=960, help="timed per way and round")
    options = parser.parse_args()
    if not (options.shards or options.corpus):
        parser.error("what to load? give --shards or --corpus, or set MICROGRAPHS")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.shards
        if folder is None:
            folder = Path(scratch) / "shards"
            write_shards(WriteConfig(source=str(options.corpus), out=str(folder), report=False))
        data = open_split(folder, "train")
        console = Console()
        console.print(f"{len(data)} images, {cores()} cores, median of {options.rounds} rounds")
        ways = _ways(data, Path(scratch))
        console.print(_side_by_side(ways, options.rounds, options.images))
        console.print(_fed_and_unfed(data))


def _ways(data: ShardReader, scratch: Path) -> dict[str, Callable[[], Any]]:
    """Name -> a context that gives endless batches of `BATCH` images."""
    image_cache = DecodedImageCache(data, CPU)
    ways: dict[str, Callable[[], Any]] = {
        "decode alone (TurboJPEG, threads)": lambda: _decoding(data),
        "webdataset + torchvision, any angle": lambda: _webdataset(data, CONFIG),
        "webdataset + torchvision, quarter turns": lambda: _webdataset(data, QUARTER),
        "DALI on the CPU, any angle": lambda: _dali(data, CONFIG),
        "ours, any angle": lambda: _ours(data, CONFIG, None),
        "ours, quarter turns": lambda: _ours(data, QUARTER, None),
        "ours, resident, any angle": lambda: _ours(data, CONFIG, image_cache),
        "ours, resident, quarter turns": lambda: _ours(data, QUARTER, image_cache),
    }
    if find_spec("litdata") is None:
        print("litdata is not installed: left out")
    else:
        folder = _write_litdata(data, scratch / "litdata")
        ways["litdata + torchvision, any angle"] = lambda: _litdata(folder, CONFIG)
    if find_spec("ffcv") is None:
        print("ffcv is not installed: left out (no wheel; its build needs OpenCV's headers)")
    return ways


def _side_by_side(ways: dict[str, Callable[[], Any]], rounds: int, images: int) -> Table:
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            with way() as batches:
                rates[name].append(_rate(batches, images))
    table = Table("way", "images/s", "x webdataset, any angle", box=None)
    base = statistics.median(rates["webdataset + torchvision, any angle"])
    for name, values in rates.items():
        rate = statistics.median(values)
        table.add_row(name, f"{rate:.0f}", f"{rate / base:.2f}")
    return table


def _rate(batches: Batches, images: int) -> float:
    for _ in range(WARM_UP):
        next(batches)
    count = -(-images // BATCH)
    started = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * BATCH / (time.perf_counter() - started)


@contextmanager
def _decoding(data: ShardReader) -> Iterator[Batches]:
    grey = "GRAY" if data.manifest.channels == 1 else "RGB"

    def decode(sample: int) -> None:
        simplejpeg.decode_jpeg(data.read(np.array([sample]))[0], grey)

    with ThreadPoolExecutor(cores()) as pool:
        order = itertools.cycle(range(len(data)))
        yield (list(pool.map(decode, itertools.islice(order, BATCH))) for _ in itertools.count())


@contextmanager
def _ours(
    data: ShardReader, config: TrainConfig, image_cache: DecodedImageCache | None
) -> Iterator[Batches]:
    loader = Loader(
        data, config, micro_batch_size=BATCH, device=CPU, threads=cores(), image_cache=image_cache
    )
    if image_cache is not None and not image_cache.complete:
        for _ in _epoch(loader, len(data), 0):
            pass
    yield itertools.chain.from_iterable(_epoch(loader, len(data), n) for n in itertools.count(1))


@contextmanager
def _dali(data: ShardReader, config: TrainConfig) -> Iterator[Batches]:
    loader = Loader(data, config, micro_batch_size=BATCH, device=CPU, threads=1)
    loader._pipeline = DaliPipeline(
        data, config, BATCH, cores(), device=CPU, decode="cpu", image_cache=None
    )
    yield itertools.chain.from_iterable(_epoch(loader, len(data), n) for n in itertools.count(1))


def _epoch(loader: Loader, samples: int, epoch: int) -> Batches:
    sampler = EpochSampler(samples=samples, batch_size=BATCH, micro_batch_size=BATCH, seed=0)
    return (batch for step in loader.steps(sampler, epoch, 0, 0, 1) for batch in step.batches)


@contextmanager
def _webdataset(data: ShardReader, config: TrainConfig) -> Iterator[Batches]:
    transform = _transform(config)
    urls = [str(data.folder / shard.name) for shard in data.manifest.splits[data.split].shards]
    dataset = (
        # Resampled: one shard can not be split over two workers otherwise, and epochs never end.
        webdataset.WebDataset(urls, resampled=True, shardshuffle=False, empty_check=False)
        .shuffle(500)
        .map(lambda sample: (transform(sample["jpg"]), int(sample["cls"])))
        .batched(BATCH, partial=False)
    )
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=cores(),
        prefetch_factor=4,
        multiprocessing_context="fork",  # litdata makes `spawn` the default of its process
    )
    batches = iter(loader)
    yield map(_normalise, batches)
    batches._shutdown_workers()  # type: ignore[attr-defined]


def _write_litdata(data: ShardReader, folder: Path) -> Path:
    import litdata

    sample = functools.partial(_litdata_sample, data.folder, data.split)
    litdata.optimize(
        sample, list(range(len(data))), output_dir=str(folder), num_workers=1, chunk_bytes="16MB"
    )
    return folder


def _litdata_sample(folder: Path, split: str, number: int) -> dict[str, Any]:
    data = open_split(folder, split)  # litdata's writers are processes of their own
    encoded = data.read(np.array([number]))[0].tobytes()
    for descriptor in data.descriptors:
        os.close(descriptor)
    return {"jpg": encoded, "cls": int(data.index["label"][number])}


@contextmanager
def _litdata(folder: Path, config: TrainConfig) -> Iterator[Batches]:
    import litdata

    transform = functools.partial(_litdata_transform, _transform(config))
    dataset = litdata.StreamingDataset(str(folder), shuffle=True, transform=transform)
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=cores(), drop_last=True, persistent_workers=True
    )
    yield map(_normalise, itertools.chain.from_iterable(itertools.repeat(loader)))


def _litdata_transform(
    transform: Callable[[bytes], torch.Tensor], sample: dict[str, Any]
) -> tuple[torch.Tensor, int]:
    return transform(sample["jpg"]), sample["cls"]


def _transform(config: TrainConfig) -> Callable[[bytes], torch.Tensor]:
    """Paper A's augmentations as torchvision has them, on one grey channel."""
    stretch = config.crop_aspect_max
    bilinear = v2.InterpolationMode.BILINEAR
    turns: v2.Transform = v2.RandomRotation(config.rotate_degrees, interpolation=bilinear)  # type: ignore[arg-type]
    if config.rotation_mode == "quarter":
        turns = v2.RandomChoice([v2.RandomRotation((angle, angle)) for angle in (90, 180, 270)])
    augment = v2.Compose(
        [
            v2.RandomResizedCrop(
                config.image_size, (config.crop_area_min, 1), (1 / stretch, stretch), bilinear
            ),
            v2.RandomHorizontalFlip(config.hflip_prob),
            v2.RandomVerticalFlip(config.vflip_prob),
            v2.RandomApply([turns], config.rotate_prob),
            v2.ToDtype(torch.float32, scale=True),
            v2.ColorJitter(config.brightness, config.contrast),
            v2.GaussianNoise(sigma=config.noise / 2, clip=False),
        ]
    )

    return functools.partial(_decode_and, augment)


def _decode_and(augment: v2.Compose, encoded: bytes) -> torch.Tensor:
    pixels = simplejpeg.decode_jpeg(encoded, "GRAY")
    return augment(torch.from_numpy(pixels).permute(2, 0, 1))  # type: ignore[no-any-return]


def _normalise(batch: Any) -> torch.Tensor:
    """In the main process: workers then send one channel instead of three."""
    images = batch[0].sub(torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
    images = images.div_(torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
    return images.contiguous(memory_format=torch.channels_last)  # type: ignore[no-any-return]


def _fed_and_unfed(data: ShardReader) -> Table:
    """ResNet-18's training step on the loader's batches, and on one fixed batch."""
    table = Table("ResNet-18 step, 224 px", "images/s", "waiting for data", box=None)
    model = build_classifier("resnet18", "random", len(data.manifest.classes), 0.0)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, CONFIG)
    sampler = EpochSampler(samples=len(data), batch_size=BATCH, micro_batch_size=BATCH, seed=0)

    def train(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(model(images), labels).backward()
        optimizer.step()

    loader = Loader(data, CONFIG, micro_batch_size=BATCH, device=CPU, threads=cores())
    fixed = next(_epoch(loader, len(data), 0))
    train(fixed.images, fixed.labels)
    started = time.perf_counter()
    for _ in range(STEPS):
        train(fixed.images, fixed.labels)
    seconds = time.perf_counter() - started
    table.add_row("a fixed batch", f"{STEPS * BATCH / seconds:.1f}", "")
    for name, image_cache in (("streaming", None), ("resident", DecodedImageCache(data, CPU))):
        loader = Loader(
            data,
            CONFIG,
            micro_batch_size=BATCH,
            device=CPU,
            threads=cores(),
            image_cache=image_cache,
        )
        pace = ThroughputMeter(1, sampler.steps_per_epoch, visible=False)
        for step in itertools.islice(
            pace.watch(loader.steps(sampler, 1, 0, 0, 1), 0, 0), STEPS + 1
        ):
            for batch in step.batches:
                train(batch.images, batch.labels)
        measured = pace.measured()
        wait, rate = measured["data_wait"], measured["images_per_second"]
        table.add_row(name, f"{rate:.1f}", f"{wait:.2%}")
    return table


if __name__ == "__main__":
    main()
