"""Time of a step of each adaptation method against source_only, all in one run.

python benchmarks/bench_adapt.py [--arch resnet18] [--tile-core 96] [--context-margin 16]
    [--batch 4]

Methods take turns, a step each, so that whatever else the machine does falls on all of them alike.
CPU time is given beside the clock's: on a busy machine it is the steadier of the two.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from downstream.adaptation.build import build_network, cut_pools, read_data
from downstream.adaptation.config import AdaptConfig
from downstream.adaptation.training import State, Trainer, open_run

METHODS: dict[str, dict[str, Any]] = {
    "source_only": {"method": "source_only"},
    "source_only + fda": {"method": "source_only", "style": "fda"},
    "adaptsegnet, single level": {"method": "adaptsegnet", "multi_level": False},
    "adaptsegnet": {"method": "adaptsegnet"},
    "advent": {"method": "advent"},
    "mean_teacher": {"method": "mean_teacher"},
    "adaptsegnet + teacher": {"method": "adaptsegnet", "teacher": True},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--tile-core", type=int, default=96)
    parser.add_argument("--context-margin", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--augmentation", default="extended")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        base = AdaptConfig(
            study=write_study(Path(folder), 2 * options.tile_core),
            target="other",
            run_dir=Path(folder) / "run",
            arch=options.arch,
            tile_core=options.tile_core,
            context_margin=options.context_margin,
            batch_size=options.batch,
            augmentation=options.augmentation,
        )
        trainers = {name: build(replace(base, **changed)) for name, changed in METHODS.items()}
        states = dict.fromkeys(trainers, State())
        clock: dict[str, list[float]] = {name: [] for name in trainers}
        cpu: dict[str, list[float]] = {name: [] for name in trainers}
        for _ in range(options.rounds + 2):
            for name, trainer in trainers.items():
                began, spent = time.perf_counter(), time.process_time()
                states[name] = trainer.train_step(states[name])
                clock[name].append(time.perf_counter() - began)
                cpu[name].append(time.process_time() - spent)
    print(f"{'method':28s}  seconds  x source_only  CPU seconds  x source_only")
    first = next(iter(trainers))
    for name in trainers:
        wall, spent = median(clock[name][2:]), median(cpu[name][2:])  # the first ones warm up
        ratios = wall / median(clock[first][2:]), spent / median(cpu[first][2:])
        print(f"{name:28s}  {wall:7.3f}  {ratios[0]:13.2f}  {spent:11.3f}  {ratios[1]:13.2f}")


def build(config: AdaptConfig) -> Trainer:
    data = read_data(config)
    segmenter, _ = build_network(config, data.study)
    return Trainer(segmenter, config, data.study, *cut_pools(config, data), open_run(config))


def write_study(folder: Path, side: int) -> Path:
    """Grey noise: what a step costs does not hang on what it sees."""
    rng = np.random.default_rng(0)
    for name, split in (("source", "images"), ("source", "masks"), ("other", "train")):
        (folder / name / split).mkdir(parents=True)
        for number in range(4):
            values = rng.integers(0, 256, (side, side))
            pixels = 255 * (values > 127) if split == "masks" else values
            path = folder / name / split / f"{name}{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    path = folder / "study.yaml"
    path.write_text(
        f"data: {folder}\nclasses: [ground=0, phase=255]\nscale: 1.0\nfolds: 2\n"
        "source: {data: source}\ntargets: {other: {data: other, test: []}}\n"
    )
    return path


if __name__ == "__main__":
    main()
