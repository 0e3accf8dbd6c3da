"""Is the transfer report right? Its forecasts, intervals and verdicts against the truth.

python tests/bench/bench_transfer.py --out FOLDER [--shifts 32] [--runs 2]

Trains small segmenters on drawn lath bainite, then draws targets of many preparations: on the way
to paper B's three and beyond (even numbers: 0, 2, …), and of numbers mixed at random (odd ones),
ever stronger. What is computed is kept in FOLDER, so that a killed call goes on.

Defined beforehand, with 5 points of mIoU tolerated: `trust` is right where the runs lose no more,
`adapt` where they lose more, and new batch-norm statistics leave at most twice that, else `label`.
Every other pair of shifts (0, 1, 4, 5, …) serves to choose: thresholds on single signs, and which
signs the forecast is made of (`forecast.PREDICTORS`). The rest tests. What a forecast learns its
numbers from are source images alone.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from downstream.adapt import adapt, read_data
from downstream.bainite import main as draw_bainite
from downstream.seg.run_folder import RunPaths, write_json
from downstream.seg.segmenter import load_segmenter
from downstream.uda.bainite_shift import SOURCE, TARGETS, Shift, blend, random_shift
from downstream.uda.bainite_view import draw_domain
from downstream.uda.config import AdaptConfig
from downstream.uda.domains import DomainStudy
from downstream.uda.prepare import PreparedImage, prepare_pixels
from downstream.uda.transfer.forecast import Forecast, Scored, Tally, fit_forecast
from downstream.uda.transfer.interval import domain_interval, model_reach
from downstream.uda.transfer.rehearsal import plan_rehearsals, rehearse
from downstream.uda.transfer.report import expect
from downstream.uda.transfer.signs import (
    SIGN_NAMES,
    Signs,
    SourceView,
    disagreement,
    look_at,
    view_source,
)
from downstream.uda.transfer.verdict import Advice, Expected, decide
from shards.settings import build_config, read_recipe

STUDY = Path(__file__).parents[2] / "configs" / "downstream" / "domains" / "bainite.yaml"
TOLERANCE = 0.05
CONFIDENCE = 0.95
MOST_VAL = 3  # validation images that are rehearsed with: as many as a target has
SHAPE = (192, 256)  # of a target's images, pixels of 27.7 nm; half of it at the working scale
STRONGEST = 1.3  # 1 is as far as paper B's targets


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--shifts", type=int, default=32)
    parser.add_argument("--images", type=int, default=3, help="of each shift")
    parser.add_argument("--rehearsals", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = options.out / "bainite"
    if not data.exists():
        counts = ["--images", "18", "--target-images", "1", "--test-images", "2"]
        draw_bainite(["--out", str(data), *counts, "--size", "256", "320"])
    runs = [options.out / f"fold{fold}" for fold in range(options.runs)]
    for fold, run in enumerate(runs):
        if not RunPaths(run).results.exists():
            train(run, data, fold, options.steps)
    shifts = [shift_of(number, options.shifts) for number in range(options.shifts)]
    records = [observe(run, shifts, options.images, options.rehearsals) for run in runs]
    report(runs, records, shifts)


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
    return blend(SOURCE, list(TARGETS.values())[number // 2 % 3], strength)


def draw_target(study: DomainStudy, shift: Shift, number: int, images: int) -> list[PreparedImage]:
    domain = replace(
        study.source, name="drawn", pixel_size_nm=shift.pixel_nm, invert=shift.inverted
    )
    drawn = draw_domain(shift, 1000 + number, images, SHAPE)
    return [
        prepare_pixels(study, domain, f"{number}_{i}", np.repeat(grey[..., None], 3, 2), mask)
        for i, (grey, mask) in enumerate(drawn)
    ]


def observe(run: Path, shifts: Sequence[Shift], images: int, rehearsals: int) -> dict[str, Any]:
    """What the run shows, and the truth, of rehearsals and shifts: kept as it comes."""
    path = run / "observed.json"
    record: dict[str, Any] = {"rehearsals": [], "shifts": []}
    if path.exists():
        record = json.loads(path.read_text())
    if len(record["rehearsals"]) == rehearsals and len(record["shifts"]) == len(shifts):
        return record
    config = build_config(AdaptConfig, read_recipe(RunPaths(run).config))
    source = read_data(config)
    view = view_source(load_segmenter(run), source.study, source.train, source.val, 8)
    record["limits"] = list(view.limits)
    val = [cut(image) for image in source.val[:MOST_VAL]]
    for rehearsal in plan_rehearsals(rehearsals, 0)[len(record["rehearsals"]) :]:
        found, _ = look(view, rehearse(rehearsal, val, 0))
        record["rehearsals"].append(found | {"changes": rehearsal.spelled})
        write_json(path, record)
        print(run.name, rehearsal.spelled, spelled(found), flush=True)
    for number in range(len(record["shifts"]), len(shifts)):
        target = draw_target(view.study, shifts[number], number, images)
        found, maps = look(view, target)
        np.savez_compressed(run / f"maps{number}.npz", *maps)
        record["shifts"].append(found | {"shift": asdict(shifts[number])})
        write_json(path, record)
        print(run.name, number, spelled(found), flush=True)
    return record


def cut(image: PreparedImage) -> PreparedImage:
    """A corner of the target images' size: time."""
    assert image.mask is not None  # of the source
    rows, columns = slice(SHAPE[0] // 2), slice(SHAPE[1] // 2)
    return replace(image, pixels=image.pixels[rows, columns], mask=image.mask[rows, columns])


def look(
    view: SourceView, images: Sequence[PreparedImage]
) -> tuple[dict[str, Any], list[npt.NDArray[np.float32]]]:
    tally, maps, signs = Tally(2), [], []
    for image, found in zip(images, look_at(view, images), strict=True):
        tally.add(found, image)
        maps.append(found.probabilities)
        signs.append(asdict(found.signs))
    scored = tally.scored()
    content = asdict(scored) | {"fraction_errors": scored.fraction_errors.tolist()}
    truth = [float((image.mask == 1).mean()) for image in images if image.mask is not None]
    return content | {"images": signs, "true": truth}, maps


def spelled(found: Mapping[str, Any]) -> str:
    signs = " ".join(f"{name} {value:.3g}" for name, value in found["signs"].items())
    return f"mIoU {found['miou']:.3f} adapted {found['adapted_miou']:.3f} {signs}"


def scored_of(found: Mapping[str, Any]) -> Scored:
    return Scored(
        Signs(**found["signs"]),
        found["miou"],
        found["adapted_miou"],
        np.array(found["fraction_errors"]),
    )


@dataclass(frozen=True, slots=True)
class Truth:
    """Of one shift, means over the runs."""

    source: float
    miou: float
    adapted: float

    @property
    def advice(self) -> Advice:
        if self.miou >= self.source - TOLERANCE:
            return "trust"
        return "adapt" if self.adapted >= self.source - 2 * TOLERANCE else "label"


def report(
    runs: Sequence[Path], records: Sequence[Mapping[str, Any]], shifts: Sequence[Shift]
) -> None:
    forecasts = [fit_forecast([scored_of(own) for own in r["rehearsals"]]) for r in records]
    for run, forecast in zip(runs, forecasts, strict=True):
        print(f"{run.name}: source {forecast.source_miou:.3f}, forecast error {forecast.error:.3f}")
    found = [[scored_of(record["shifts"][n]) for record in records] for n in range(len(shifts))]
    source = float(np.mean([forecast.source_miou for forecast in forecasts]))
    truths = [
        Truth(
            source,
            float(np.mean([own.miou for own in of_runs])),
            float(np.mean([own.adapted_miou for own in of_runs])),
        )
        for of_runs in found
    ]
    expected = [expect(forecasts, [own.signs for own in of_runs]) for of_runs in found]
    maps = [[load_maps(run, n) for run in runs] for n in range(len(shifts))]
    scores = {
        name: [float(np.mean([getattr(own.signs, name) for own in of_runs])) for of_runs in found]
        for name in SIGN_NAMES
    }
    scores["disagreement of runs"] = [
        float(np.mean([disagreement(images) for images in zip(*of_runs, strict=True)]))
        for of_runs in maps
    ]
    scores["spread of fractions"] = [
        float(np.std([np.mean([m.argmax(0).mean() for m in own]) for own in of_runs]))
        for of_runs in maps
    ]
    scores["forecast loss"] = [own.source_miou - own.miou for own in expected]
    print_correlations(scores, truths)
    for learns, half in ((True, "half that the signs were chosen on"), (False, "other half")):
        kept = [n for n in range(len(shifts)) if (n // 2 % 2 == 0) == learns]
        print(f"\n{half}: {len(kept)} shifts")
        print_verdicts([expected[n] for n in kept], [truths[n] for n in kept])
    print_coverage(forecasts, found, maps, records, shifts)


def print_correlations(scores: Mapping[str, Sequence[float]], truths: Sequence[Truth]) -> None:
    """Spearman's with the true loss; and what to trust, by a threshold of the other half."""
    drops = np.array([truth.source - truth.miou for truth in truths])
    trusted = drops <= TOLERANCE
    learns = np.arange(len(truths)) // 2 % 2 == 0
    share = float(trusted[~learns].mean())
    best = max(share, 1 - share)
    print(f"\n{len(truths)} shifts, {trusted.sum()} to trust; mIoU lost: {quartiles(drops)}")
    print(f"{'score':22} Spearman  right by a threshold (always the same: {best:.0%})")
    for name, values in scores.items():
        own = np.array(values)
        rank = float(spearmanr(own, drops).statistic)
        right = [np.mean((own[learns] <= limit) == trusted[learns]) for limit in own[learns]]
        limit = own[learns][int(np.argmax(right))]
        tested = np.mean((own[~learns] <= limit) == trusted[~learns])
        print(f"{name:22} {rank:+.2f}     {tested:.0%} at {limit:.3g}")


def quartiles(values: npt.NDArray[np.float64]) -> str:
    return ", ".join(f"{value:+.3f}" for value in np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))


def print_verdicts(expected: Sequence[Expected], truths: Sequence[Truth]) -> None:
    pairs = list(zip(expected, truths, strict=True))
    given = [decide(own, TOLERANCE) for own in expected]
    right = [truth.advice for truth in truths]
    for name, missed in (
        ("as it is", np.array([own.miou - truth.miou for own, truth in pairs])),
        ("adapted", np.array([(own.adapted_miou or 0) - truth.adapted for own, truth in pairs])),
    ):
        rms = float(np.sqrt(np.mean(missed**2)))
        print(f"forecast less true mIoU, {name}: mean {missed.mean():+.3f}, rms {rms:.3f}")
    print("verdict (rows) against what was right (columns)")
    names = get_args(Advice)
    print(f"{'':8}" + "".join(f"{name:>8}" for name in names))
    for row in names:
        counts = [
            sum(g == row and r == column for g, r in zip(given, right, strict=True))
            for column in names
        ]
        print(f"{row:8}" + "".join(f"{count:8}" for count in counts))
    print(f"right {np.mean([g == r for g, r in zip(given, right, strict=True)]):.0%}")


def print_coverage(
    forecasts: Sequence[Forecast],
    found: Sequence[Sequence[Scored]],
    maps: Sequence[Sequence[Sequence[npt.NDArray[np.float32]]]],
    records: Sequence[Mapping[str, Any]],
    shifts: Sequence[Shift],
) -> None:
    """How often the interval holds the truth, with the shift's part and without."""
    hits: dict[str, list[bool]] = {}
    widths: dict[str, list[float]] = {}
    for number, shift in enumerate(shifts):
        expected = [f.miou(own.signs) for f, own in zip(forecasts, found[number], strict=True)]
        images = list(zip(*maps[number], strict=True))
        bagged = [np.mean(of_runs, axis=0).argmax(0) == 1 for of_runs in images]
        alone = [float(np.mean([m.argmax(0).mean() for m in own])) for own in maps[number]]
        spread = float(np.std(alone, ddof=1)) if len(alone) > 1 else 0.0
        true = float(np.mean(records[0]["shifts"][number]["true"]))
        reach = model_reach(forecasts, expected, 1, CONFIDENCE)
        for name, added in (("sample and runs", 0.0), ("with the shift", reach)):
            interval = domain_interval(bagged, added, spread, CONFIDENCE)
            for what, value in (("material", shift.bainite), ("images", true)):
                held = interval.low <= value <= interval.high
                hits.setdefault(f"{name}, of the {what}", []).append(held)
            widths.setdefault(name, []).append(interval.high - interval.low)
    print(f"\ncoverage of intervals at {CONFIDENCE:.0%}")
    for name, all_held in hits.items():
        print(f"{name:34} {np.mean(all_held):.0%}")
    for name, own in widths.items():
        print(f"width, {name}: {quartiles(np.array(own))}")


def load_maps(run: Path, number: int) -> list[npt.NDArray[np.float32]]:
    with np.load(run / f"maps{number}.npz") as arrays:
        return [arrays[name] for name in arrays.files]


if __name__ == "__main__":
    main()
