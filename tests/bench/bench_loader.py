"""How fast the loader is, beside what it feeds: images/s of decoding, of batches, of training.

    python tests/bench/bench_loader.py [--shards DIR] [--image-size N]

All in one run, as machines differ from minute to minute; compare the ratios.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy

from pretrain.config import TrainConfig
from pretrain.loader import DaliLoader
from pretrain.model import build_classifier
from pretrain.optim import build_sgd
from pretrain.order import Plan
from pretrain.store import ShardSplit, open_split
from shards.images import decode_image
from shards.synthetic import corpus_jobs, drawn
from shards.write import WriteConfig, write_shards

BATCH = 32
IMAGES = 320  # per measurement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=Path, help="shard set [512-px synthetic micrographs]")
    parser.add_argument("--image-size", type=int, default=224)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        shards = options.shards or synthetic_shards(Path(scratch))
        data = open_split(shards, "train")
        config = TrainConfig(arch="resnet18", image_size=options.image_size, batch_size=BATCH)
        still = TrainConfig(
            arch="resnet18", image_size=options.image_size, batch_size=BATCH, rotate=0.0, noise=0.0
        )
        rates = {
            "decode alone (Pillow, one thread)": rate(lambda: decode_all(data)),
            "loader, no rotation": rate(lambda: load_all(data, still)),
            "loader, paper A's augmentation": rate(lambda: load_all(data, config)),
            "ResNet-18 step on a fixed batch": rate(lambda: train_all(config)),
        }
    table = Table("what", "images/s", "of the training step", box=None)
    step = rates["ResNet-18 step on a fixed batch"]
    for name, value in rates.items():
        table.add_row(name, f"{value:.0f}", f"{value / step:.1f} x")
    Console().print(table)


def rate(work: Callable[[], None]) -> float:
    """Images per second of the better of two runs."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return IMAGES / min(seconds)


def decode_all(data: ShardSplit) -> None:
    for encoded in data.read(np.arange(IMAGES) % len(data)):
        decode_image(encoded.tobytes())


def load_all(data: ShardSplit, config: TrainConfig) -> None:
    threads = torch.get_num_threads()
    loader = DaliLoader(
        data, config, micro_batch_size=BATCH, device=torch.device("cpu"), threads=threads
    )
    plan = Plan(samples=len(data), batch_size=BATCH, micro_batch_size=BATCH, seed=0)
    served = 0
    for epoch in range(IMAGES):
        for step in loader.steps(plan, epoch, 0, 0, 1):
            for batch in step.batches:
                served += len(batch.ids)
            if served >= IMAGES:
                return


def train_all(config: TrainConfig) -> None:
    model = build_classifier("resnet18", "random", 10, 0.0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_sgd(model, config)
    images = torch.randn(BATCH, 3, config.image_size, config.image_size)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % 10
    for _ in range(IMAGES // BATCH):
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(model(images), labels).backward()
        optimizer.step()


def synthetic_shards(folder: Path) -> Path:
    """About 300 JPEGs of 512 px, as the fast profile stores micrographs."""
    for _ in drawn(corpus_jobs(folder / "in", 30, 512, 0)):
        pass
    write_shards(WriteConfig(source=str(folder / "in"), out=str(folder / "shards")))
    return folder / "shards"


if __name__ == "__main__":
    main()
