"""The study's figures: every run's score, and predictions as in paper B's figures 4 to 6. No torch.

Paper B shows micrograph, source-only and adapted prediction, and label; faults in colour.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from downstream.bench.paired import CONFIDENCE
from downstream.seg.pictures import (
    AGREEMENT,
    CLASS_COLOURS,
    Panel,
    agreement_map,
    class_colour,
    contact_sheet,
    overlay,
)
from downstream.seg.run_folder import RunPaths
from downstream.uda.bench.gains import Gain
from downstream.uda.bench.runs import (
    BASELINE,
    AdaptRun,
    Variant,
    longest,
    scores_on,
    source_scores,
    targets_of,
)
from downstream.uda.bench.sheet import percent
from downstream.uda.bench.study import Study
from downstream.uda.prepare import PreparedImage, prepare_target
from pretrain.atomic import write_atomically
from shards.cli import UserError, console

matplotlib.use("Agg")  # draws to files only; must come before pyplot
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

_DPI = 110
_SHOWN = 3  # images of a target: the first by name, not the best
_FIGURES = {"T1": "figure4", "T2": "figure5", "T3": "figure6"}  # of the paper
_SIDE = 300  # pixels of a panel


def draw_scores(study: Study, found: Sequence[Gain], path: Path) -> None:
    """mIoU of each run on the source and on each target, by variant; the gain's interval below."""
    variants = longest(study.variants())
    names = [_name(study, variant) for variant in variants]
    targets = targets_of(study.runs)
    figure, axes = plt.subplots(
        1,
        1 + len(targets),
        figsize=(3.4 + 2.6 * (1 + len(targets)), 1.3 + 0.42 * len(variants)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, target in zip(axes[0], [None, *targets], strict=True):
        for line, variant in enumerate(variants):
            scores = (
                source_scores(study.runs, variant)
                if target is None
                else scores_on(study.runs, variant, target)
            )
            values = [100 * score.miou for score in scores.values()]
            if not values:
                continue
            colour = "0.35" if variant.method == BASELINE else _rgb(CLASS_COLOURS[7])
            axis.scatter(values, [line] * len(values), s=20, color=colour, alpha=0.5, lw=0)
            axis.scatter(np.mean(values), line, s=110, marker="|", color=colour, lw=2.5)
            if variant.method == BASELINE and len({v.setting for v in variants}) == 1:
                axis.axvline(np.mean(values), color="0.7", lw=1, zorder=0)
        for gain in found if target is not None else ():
            if gain.target == target and gain.variant in variants:
                _draw_gain(axis, study, gain, variants.index(gain.variant))
        axis.set(title="source, validation" if target is None else target, xlabel="mIoU, percent")
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x", alpha=0.3)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    handles = [
        Line2D([], [], marker="o", ls="", color="0.35", alpha=0.5, label="run"),
        Line2D([], [], marker="|", ls="", ms=10, mew=2.5, color="0.35", label="mean"),
    ]
    if any(not math.isnan(gain.paired.low) for gain in found):
        label = f"DG + gain, {CONFIDENCE:.0%} bootstrap"
        handles.append(Line2D([], [], color=_rgb(CLASS_COLOURS[6]), lw=2, label=label))
    figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=3)
    _save(figure, path)


def draw_predictions(study: Study, out: Path) -> list[str]:
    """Draw figure4.png … one for each target; returns the names written.

    Targets whose images are not at hand any more are left out, which is said.
    """
    written = []
    for target in study.targets:
        chosen = shown_runs(study, target)
        try:
            images = prepare_target(study.domains(), target).test
        except UserError as error:
            console.print(f"no figure of {target}: {error}", markup=False, soft_wrap=True)
            continue
        rows = [row for image in images[:_SHOWN] if (row := _row(image, target, chosen))]
        if rows:
            name = f"{_FIGURES.get(target, f'figure4-{target}')}.png"
            _save_sheet(study, target, chosen, rows, out / name)
            written.append(name)
    return written


def shown_runs(study: Study, target: str) -> dict[str, AdaptRun]:
    """Label -> run, of the setting with most methods: all of one fold and seed where there is."""
    chosen: dict[tuple[str, ...], list[Variant]] = {}
    for variant in longest(study.variants()):
        if scores_on(study.runs, variant, target):
            chosen.setdefault(variant.setting, []).append(variant)
    if not chosen:
        return {}
    variants = max(chosen.values(), key=len)
    runs = {
        variant: {
            run.place: run
            for run in study.runs
            if run.variant == variant and target in (run.targets or {})
        }
        for variant in variants
    }
    common = set.intersection(*(set(places) for places in runs.values()))
    return {
        study.label(variant).partition(" - ")[0]: places[min(common or places)]
        for variant, places in runs.items()
    }


def _draw_gain(axis: Any, study: Study, gain: Gain, line: int) -> None:
    scores = scores_on(study.runs, gain.baseline, gain.target).values()
    base = np.mean([score.miou for score in scores])
    low, high = (100 * (base + end) for end in (gain.paired.low, gain.paired.high))
    if not math.isnan(low):
        axis.hlines(line + 0.25, low, high, color=_rgb(CLASS_COLOURS[6]), lw=2)


def _row(image: PreparedImage, target: str, chosen: Mapping[str, AdaptRun]) -> list[Panel]:
    """Micrograph, each prediction, label; empty where no run kept its mask."""
    truth = image.mask
    predictions = []
    for label, run in chosen.items():
        path = RunPaths(run.folder).masks / target / f"{image.name}.png"
        if path.is_file():
            with Image.open(path) as picture:
                size = (image.pixels.shape[1], image.pixels.shape[0])
                mask = np.asarray(picture.resize(size, Image.Resampling.NEAREST), np.int64)
            miou = (run.targets or {})[target].image_miou.get(image.name, float("nan"))
            predictions.append((f"{label}: {percent(miou)} %", mask))
    if not predictions:
        return []
    two = truth is not None and len(next(iter(chosen.values())).classes) == 2
    panels = [Panel(image.pixels, image.name)]
    for caption, mask in predictions:
        shown = (
            agreement_map(mask, truth.astype(np.int64), 1)
            if two and truth is not None
            else overlay(image.pixels, mask)
        )
        panels.append(Panel(shown, caption))
    if truth is not None:
        panels.append(Panel(overlay(image.pixels, truth.astype(np.int64)), "label"))
    return panels


def _save_sheet(
    study: Study,
    target: str,
    chosen: Mapping[str, AdaptRun],
    rows: Sequence[Sequence[Panel]],
    path: Path,
) -> None:
    classes = next(iter(chosen.values())).classes
    legend = {name: class_colour(index) for index, name in enumerate(classes) if index}
    if len(classes) == 2:
        legend |= AGREEMENT
    folds = sorted({run.place for run in chosen.values()})
    where = ", ".join(f"fold {fold} seed {seed}" for fold, seed in folds)
    title = f"{study.name}, {target}: first test images, {where}; mIoU of each"
    stream = io.BytesIO()
    contact_sheet(rows, legend, title, _SIDE).save(stream, "PNG", optimize=True)
    write_atomically(path, stream.getvalue())


def _name(study: Study, variant: Variant) -> str:
    settings = {v.setting for v in study.variants()}
    label = study.label(variant)
    if len(settings) == 1:
        return label.replace(f" - {variant.arch} {variant.network}", "")
    return f"{label}\n{variant.init}, {variant.augmentation}"


def _save(figure: Any, path: Path) -> None:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    plt.close(figure)
    write_atomically(path, stream.getvalue())


def _rgb(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
