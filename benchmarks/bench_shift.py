"""How often do the two signals of downstream.shift_report tell a harmful shift from a harmless one?

python benchmarks/bench_shift.py --out FOLDER [--shifts 32] [--runs 2]

Trains small segmenters on drawn lath bainite, then draws targets of many preparations: on the way
to paper B's three and beyond (even numbers: 0, 2, …), and of numbers mixed at random (odd ones),
ever stronger. What is computed is kept in FOLDER, so that a stopped call continues.

Defined beforehand: a shift is harmful where it costs more than 5 points of mIoU, and a hit is a
signal above its limit on a harmful shift, or below on another. The limit of each signal is chosen
on every other pair of shifts (0, 1, 4, 5, …); the rest tests.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from downstream.adapt import adapt
from downstream.adaptation.build import read_data
from downstream.adaptation.config import AdaptConfig
from downstream.adaptation.shift_signals import (
    SIGNAL_NAMES,
    Source,
    at_working_scale,
    describe_source,
    mean_signals,
    measure_shift,
)
from downstream.bainite import main as draw_bainite
from downstream.domains.evaluate import score_images, total_confusion
from downstream.domains.prepare import PreparedImage, prepare_pixels
from downstream.domains.study import DomainStudy
from downstream.domains.synthetic.shift import SOURCE, TARGETS, Shift, interpolate
from downstream.domains.synthetic.view import draw_image
from downstream.network.segmenter import load_segmenter
from downstream.scoring.metrics import score
from micrograph.atomic import write_json
from micrograph.settings import build_config, read_recipe
from pretrain.runs.run_folder import RunPaths

STUDY = Path(__file__).parents[1] / "configs" / "downstream" / "domains" / "bainite.yaml"
TOLERANCE = 0.05
MOST_VAL = 3  # validation images that are scored: as many as a target has
SHAPE = (192, 256)  # of a target's images, pixels of 27.7 nm; half of it at the working scale
STRONGEST = 1.3  # 1 is as far as paper B's targets


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=2, help="one per fold of 3")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--shifts", type=int, default=32)
    parser.add_argument("--images", type=int, default=3, help="of each shift")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = options.out / "bainite"
    if not data.exists():
        counts = ["--images", "18", "--target-images", "1", "--test-images", "2"]
        draw_bainite(["--out", str(data), *counts, "--size", "256", "320"])
    shifts = [shift_of(number, options.shifts) for number in range(options.shifts)]
    records = []
    for fold in range(options.runs):
        run = options.out / f"fold{fold}"
        if not RunPaths(run).results.exists():
            train(run, data, fold, options.steps)
        records.append(observe(run, shifts, options.images))
    report(records)


def train(run: Path, data: Path, fold: int, steps: int) -> None:
    adapt(
        AdaptConfig(
            study=STUDY,
            data=data,
            run_dir=run,
            method="source_only",
            folds=3,
            fold=fold,
            seed=fold,
            network="Unet",
            arch="resnet18",
            tile_core=96,
            context_margin=16,
            batch_size=4,
            steps=steps,
            lr=5e-4,
            head_lr_factor=2.0,
            warmup_steps=20,
            augmentation="basic",
            threads=1,
        )
    )


def shift_of(number: int, count: int) -> Shift:
    strength = STRONGEST * (number + 0.5) / count
    if number % 2:
        return random_shift(np.random.default_rng([7, number]), strength)
    return interpolate(SOURCE, list(TARGETS.values())[number // 2 % 3], strength)


def random_shift(rng: np.random.Generator, strength: float) -> Shift:
    """Interpolate each parameter towards a random target, by 0 to 2 times `strength`."""
    ends = list(TARGETS.values())
    values: dict[str, Any] = {}
    for name in (field.name for field in fields(Shift) if field.name != "inverted"):
        end = ends[int(rng.integers(len(ends)))]
        values[name] = getattr(interpolate(SOURCE, end, 2 * strength * rng.random()), name)
    return replace(SOURCE, inverted=bool(rng.integers(2)) and strength > 0, **values)


def draw_target(study: DomainStudy, shift: Shift, number: int, images: int) -> list[PreparedImage]:
    domain = replace(
        study.source, name="drawn", pixel_size_nm=shift.pixel_nm, invert=shift.inverted
    )
    drawn = [draw_image(shift, SHAPE, 1000 + number, 0, i) for i in range(images)]
    return [
        prepare_pixels(study, domain, f"{number}_{i}", np.repeat(grey[..., None], 3, 2), mask)
        for i, (grey, mask) in enumerate(drawn)
    ]


def observe(run: Path, shifts: Sequence[Shift], images: int) -> dict[str, Any]:
    """The mIoU of the source, and the signals and the mIoU of each shift."""
    path = run / "observed.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"shifts": []}
    if len(record["shifts"]) == len(shifts):
        return record
    data = read_data(build_config(AdaptConfig, read_recipe(RunPaths(run).config)))
    source = describe_source(load_segmenter(run), data.study, data.train, data.val, 8)
    record["source_miou"] = miou(source, [corner(image) for image in data.val[:MOST_VAL]])
    for number in range(len(record["shifts"]), len(shifts)):
        target = draw_target(source.study, shifts[number], number, images)
        found = asdict(mean_signals(measure_shift(source, target)))
        record["shifts"].append(found | {"miou": miou(source, target)})
        write_json(path, record)
        print(run.name, number, record["shifts"][-1], flush=True)
    return record


def corner(image: PreparedImage) -> PreparedImage:
    """A corner of the target images' size, to save time."""
    assert image.mask is not None  # of the source
    rows, columns = slice(SHAPE[0] // 2), slice(SHAPE[1] // 2)
    return replace(image, pixels=image.pixels[rows, columns], mask=image.mask[rows, columns])


def miou(source: Source, images: Sequence[PreparedImage]) -> float:
    """At the working scale."""
    working = [at_working_scale(image) for image in images]
    found = total_confusion(score_images(source.segmenter, source.study, working, 8))
    assert found is not None  # all are labelled
    return score(found).miou


def report(records: Sequence[Mapping[str, Any]]) -> None:
    """Each signal's Spearman correlation with the loss, and its hit rate, every run by itself."""
    losses = np.array([[r["source_miou"] - own["miou"] for own in r["shifts"]] for r in records])
    harmful = losses > TOLERANCE  # (runs, shifts)
    learns = np.arange(losses.shape[1]) // 2 % 2 == 0
    constant = harmful[:, ~learns].mean()
    print(
        f"{losses.shape[1]} shifts, {len(records)} runs: {harmful.mean():.0%} harmful; hit rate of "
        f"a constant answer {max(constant, 1 - constant):.0%}"
    )
    for name in SIGNAL_NAMES:
        values = np.array([[own[name] for own in r["shifts"]] for r in records])
        ranks = [spearmanr(*pair).statistic for pair in zip(values, losses, strict=True)]
        candidates = values[:, learns].ravel()
        hits = [((values > limit) == harmful)[:, learns].mean() for limit in candidates]
        limit = candidates[int(np.argmax(hits))]
        tested = ((values > limit) == harmful)[:, ~learns]
        print(
            f"{name:16} Spearman {np.mean(ranks):+.2f}, limit {limit:.3g}: hit rate "
            f"{tested.mean():.0%} (by run: {', '.join(f'{run.mean():.0%}' for run in tested)})"
        )


if __name__ == "__main__":
    main()
