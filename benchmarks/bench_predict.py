"""Memory and time of a prediction on a large TIFF with a tiny network: what tiling itself costs.

python benchmarks/bench_predict.py [--side 20000] [--tile 1024] [--out FOLDER]
"""

import argparse
import resource
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tifffile
import torch
from torch import nn

from downstream.images.blend import Tiling, blended_bands
from downstream.images.scan import open_image
from downstream.inference.config import PredictConfig
from downstream.inference.ensemble import Ensemble, Member
from downstream.inference.legend import build_legend
from downstream.inference.outputs import OutputWriter
from downstream.labels.classes import parse_classes
from downstream.network.segmenter import STRIDE, Segmenter
from shards.shard_format.schema import IMAGENET_MEAN, IMAGENET_STD


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--overlap", type=int, default=128)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        path = Path(folder) / "large.tif"
        # In a process of its own: the mapped file's pages would count as this one's memory.
        writer = get_context("spawn").Process(target=write_image, args=(path, options.side))
        writer.start()
        writer.join()
        print(f"{options.side} x {options.side} pixels, {path.stat().st_size / 1e6:.0f} MB")
        segmenter = tiny_segmenter()
        print(f"peak before the prediction {peak():.0f} MB")
        began = time.monotonic()
        config = PredictConfig(runs=(path,), images=(str(path),), out=Path(folder) / "out")
        legend = build_legend(parse_classes(("dark=0", "bright=1")))
        ensemble = Ensemble([Member(segmenter)], 2)
        scan = open_image(path)
        tiling = Tiling(options.tile, options.overlap, STRIDE)
        with OutputWriter(config, scan, legend, 1) as picture:
            for band in blended_bands(scan, ensemble, ensemble.channels, tiling):
                picture.add(band.top, band.maps)
            totals = picture.finish()
        seconds = time.monotonic() - began
        print(f"{seconds:.0f} s, {options.side**2 / 1e6 / seconds:.1f} million pixels per second")
        print(f"peak after it {peak():.0f} MB; notes: {', '.join(scan.notes)}")
        mask = Path(folder) / "out" / picture.mask_name
        print(f"{mask.name}: {mask.stat().st_size / 1e6:.1f} MB; pixels: {totals.counts.tolist()}")


def write_image(path: Path, side: int) -> None:
    """Bright discs in noise, written row by row: uncompressed 8-bit grey."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 60, (256, side), np.uint8)
    image = tifffile.memmap(path, shape=(side, side), dtype=np.uint8, photometric="minisblack")
    x = np.arange(side)[None] % 100 - 50
    for top in range(0, side, 256):
        y = np.arange(top, min(top + 256, side))[:, None] % 100 - 50
        image[top : top + 256] = noise[: len(y)] + 140 * (x**2 + y**2 < 900).astype(np.uint8)
        image.flush()


def tiny_segmenter() -> Segmenter:
    """A threshold after blurring, as a network with a stride."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 2, 3, padding=1),
        nn.Upsample(scale_factor=2, mode="nearest"),
    )
    return Segmenter(network.eval(), IMAGENET_MEAN, IMAGENET_STD, torch.device("cpu"))


def peak() -> float:
    """Most memory of this process so far, in MB; pages of mapped files count while they are in."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
