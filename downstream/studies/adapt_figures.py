"""Figures of adaptation runs: mIoU of every run, predictions as in paper B's figures 4 to 6.

Paper B shows micrograph, source-only and adapted prediction, and label; errors in colour. No torch.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from downstream.domains.prepare import PreparedImage, prepare_target
from downstream.domains.study import SOURCE, DomainStudy
from downstream.labels.classes import format_value
from downstream.scoring.overlays import (
    AGREEMENT,
    CLASS_COLOURS,
    Panel,
    agreement_map,
    class_colour,
    contact_sheet,
    overlay,
)
from downstream.studies.adapt_findings import Gain
from downstream.studies.adapt_runs import BASELINE, AdaptRuns, Variant
from downstream.studies.report import save_figure, save_image
from micrograph.cli import UserError, console
from micrograph.confidence_intervals import CONFIDENCE, NAN
from micrograph.report_tables import format_percent, named_rows
from pretrain.runs.run_folder import RunPaths

_MAX_IMAGES = 3  # of a target: the first by name, not the best
_FIGURES = {"T1": "figure4", "T2": "figure5", "T3": "figure6"}  # of the paper
_BLUE, _ORANGE = (format_value(CLASS_COLOURS[index]) for index in (7, 6))


def draw_scores(runs: AdaptRuns, found: Sequence[Gain], path: Path) -> None:
    """Draw the mIoU of each run by domain and variant, with the interval of each gain."""
    variants = runs.longest()
    domains = [SOURCE, *runs.targets]
    size = (3.4 + 2.6 * len(domains), 1.3 + 0.42 * len(variants))
    figure = Figure(size, layout="constrained")
    axes = figure.subplots(1, len(domains), sharey=True, squeeze=False)
    for axis, domain in zip(axes[0], domains, strict=True):
        for line, variant in enumerate(variants):
            values = 100 * runs.on(domain, variant).miou.to_numpy(float)
            colour = "0.35" if variant.method == BASELINE else _BLUE
            axis.scatter(values, [line] * len(values), s=20, color=colour, alpha=0.5, lw=0)
            if len(values):
                axis.scatter(values.mean(), line, s=110, marker="|", color=colour, lw=2.5)
        for gain in found:
            low, high = gain.paired.bootstrap.low, gain.paired.bootstrap.high
            if gain.target == domain and gain.variant in variants and not math.isnan(low):
                base = runs.on(domain, gain.baseline).miou.mean()
                y = variants.index(gain.variant) + 0.25
                axis.hlines(y, 100 * (base + low), 100 * (base + high), color=_ORANGE, lw=2)
        axis.set(title=domain, xlabel="mIoU, percent")
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x", alpha=0.3)
    names = [f"{runs.label(v)}\n{v.init}, {v.augmentation}" for v in variants]
    axes[0, 0].set_yticks(range(len(names)), names, fontsize=7)
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    interval = f"DG + gain, {CONFIDENCE:.0%} bootstrap"
    handles = [
        Line2D([], [], marker="o", ls="", color="0.35", alpha=0.5, label="run"),
        Line2D([], [], marker="|", ls="", ms=10, mew=2.5, color="0.35", label="mean"),
        Line2D([], [], color=_ORANGE, lw=2, label=interval),
    ]
    figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=3)
    save_figure(figure, path)


def draw_predictions(runs: AdaptRuns, study: DomainStudy, out: Path) -> list[str]:
    """Draw figure4.png … one for each target; returns the file names.

    Targets with missing images are skipped, with a message.
    """
    written = []
    for target in runs.targets:
        try:
            images = prepare_target(study, target).test
        except UserError as error:
            console.print(f"no figure of {target}: {error}", markup=False, soft_wrap=True)
            continue
        shown = shown_scores(runs, target)
        rows = [row for image in images[:_MAX_IMAGES] if (row := _row(image, target, shown))]
        if rows:
            classes = list(next(iter(shown.values())).phase_fraction)
            legend = {name: class_colour(index) for index, name in enumerate(classes) if index}
            pairs = sorted({(score.fold, score.seed) for score in shown.values()})
            where = ", ".join(f"fold {fold} seed {seed}" for fold, seed in pairs)
            title = f"{runs.name}, {target}: first test images, {where}; mIoU of each"
            name = f"{_FIGURES.get(target, f'figure4-{target}')}.png"
            legend |= AGREEMENT if len(classes) == 2 else {}
            save_image(contact_sheet(rows, legend, title, 300), out / name)
            written.append(name)
    return written


def shown_scores(runs: AdaptRuns, target: str) -> dict[str, Any]:
    """Label -> score for the setting with the most methods, of one fold and seed if possible."""
    variants = [v for v in runs.longest() if len(runs.on(target, v))]
    variants.sort(key=lambda v: v.setting)  # stable: methods stay in order
    by_setting = [list(group) for _, group in groupby(variants, key=lambda v: v.setting)]
    chosen: list[Variant] = max(by_setting, key=len, default=[])
    scores = {v: {(r.fold, r.seed): r for r in named_rows(runs.on(target, v))} for v in chosen}
    common = set.intersection(*map(set, scores.values())) if scores else set()
    return {
        runs.label(variant, network=False): found[min(common or found)]
        for variant, found in scores.items()
    }


def _row(image: PreparedImage, target: str, shown: Mapping[str, Any]) -> list[Panel]:
    """Micrograph, each prediction, label; empty if no run has a mask."""
    truth = None if image.mask is None else image.mask.astype(np.int64)
    panels = []
    for label, score in shown.items():
        path = RunPaths(score.folder).masks / target / f"{image.name}.png"
        if path.is_file():
            size = (image.pixels.shape[1], image.pixels.shape[0])
            with Image.open(path) as picture:
                mask = np.asarray(picture.resize(size, Image.Resampling.NEAREST), np.int64)
            drawn = overlay(image.pixels, mask)
            if truth is not None and len(score.phase_fraction) == 2:
                drawn = agreement_map(mask, truth, 1)
            miou = score.image_miou.get(image.name, NAN)
            panels.append(Panel(drawn, f"{label}: {format_percent(miou)} %"))
    if not panels:
        return []
    if truth is not None:
        panels.append(Panel(overlay(image.pixels, truth), "label"))
    return [Panel(image.pixels, image.name), *panels]
