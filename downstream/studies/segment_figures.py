"""Figures of segmentation runs: every run's IoU, paired differences, maps of the best. No torch.

Paper A's figures 3 (Super-1 to -3), 4 (Super-4) and 5 (EBC) show the best network of each
initialisation on test images: true positives white, false cyan, missed magenta.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image

from downstream.seg.dataset import read_pixels
from downstream.seg.layout import find_splits
from downstream.seg.pictures import AGREEMENT, CLASS_COLOURS, Panel, sheet
from downstream.seg.run_folder import RunPaths
from downstream.studies.report import matplotlib_colour, save_figure, save_image
from downstream.studies.segment_runs import in_order
from downstream.studies.segment_tables import ALL, InitDifference, best_run
from micrograph.published_values import read_published
from micrograph.statistics import CONFIDENCE
from shards.cli import UserError
from shards.images import Pixels

matplotlib.use("Agg")  # draws to files only; must come before pyplot
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

_MAX_IMAGES = 5  # of an experiment: Super-4 has five test images
_FIGURES = {
    **dict.fromkeys(("Super-1", "Super-2", "Super-3"), "figure3.png"),
    "Super-4": "figure4.png",
    **dict.fromkeys(("EBC-1", "EBC-2", "EBC-3", "EBC-3 by specimen"), "figure5.png"),
}


def draw_scores(runs: pd.DataFrame, differences: Sequence[InitDifference], path: Path) -> None:
    """Test micro IoU of each run by experiment and init; beside it the paired differences."""
    scored = runs[runs.micro_iou.notna()]
    experiments, inits = in_order(scored.experiment), in_order(scored.init)
    figure, axes = plt.subplots(
        1,
        2 if differences else 1,
        figsize=(5 + len(experiments) + (4.2 if differences else 0), 4.8),
        width_ratios=(1.2, 1) if differences else None,
        squeeze=False,
        layout="constrained",
    )
    _draw_runs(axes[0, 0], scored, experiments, inits)
    if differences:
        _draw_differences(axes[0, 1], differences, inits)
    save_figure(figure, path)
    plt.close(figure)


def draw_maps(runs: pd.DataFrame, out: Path, data: Path | None) -> list[str]:
    """Draw the maps of the best runs that kept theirs; returns the file names.

    `data` is where the test images lie; without it, where each run had them. Images that are gone
    are left out.
    """
    figures: dict[str, list[list[Panel]]] = {}
    for experiment in in_order(runs.experiment):
        of_experiment = runs[runs.experiment == experiment]
        best = {
            init: best_run(of_experiment[of_experiment.init == init])
            for init in in_order(of_experiment.init)
        }
        kept = {i: r for i, r in best.items() if r is not None and RunPaths(r.folder).maps.is_dir()}
        if kept:
            rows = figures.setdefault(_FIGURES.get(experiment, "figure-own.png"), [])
            rows += _map_rows(experiment, kept, data)
    title = "Best run of each initialisation by test IoU; all classes but the background as one"
    for name, rows in figures.items():
        save_image(sheet(rows, AGREEMENT, title), out / name)
    return list(figures)


def _draw_runs(
    axis: Any, runs: pd.DataFrame, experiments: Sequence[str], inits: Sequence[str]
) -> None:
    space = 0.8 / len(inits)
    printed = read_published("paper_a").query("table == '2'").set_index(["name", "experiment"])
    for (init, experiment), cell in runs.groupby(["init", "experiment"]):
        colour = _colour(inits, init)
        x = experiments.index(experiment) + (inits.index(init) - (len(inits) - 1) / 2) * space
        spread = (np.arange(len(cell)) - (len(cell) - 1) / 2) * min(0.08, space / len(cell) / 2)
        scores, failed = 100 * cell.micro_iou.to_numpy(float), (cell.failure != "").to_numpy()
        for mask, marker in ((~failed, "o"), (failed, "x")):
            axis.scatter((x + spread)[mask], scores[mask], s=26, marker=marker, color=colour)
        axis.hlines(scores.mean(), x - 0.2 * space, x + 0.2 * space, color=colour, lw=2)
        if (init, experiment) in printed.index:
            mean, std = 100 * printed.loc[(init, experiment), ["value", "std"]].fillna(0)
            axis.errorbar(x + 0.32 * space, mean, std, fmt="D", ms=3, color="0.6", lw=1, zorder=1)
    handles = [Line2D([], [], marker="o", ls="", color=_colour(inits, i), label=i) for i in inits]
    handles += [
        Line2D([], [], color="0.3", lw=2, label="mean"),
        Line2D([], [], marker="x", ls="", color="0.3", label="failed"),
        Line2D(
            [],
            [],
            marker="D",
            ms=3,
            color="0.6",
            lw=1,
            label="paper A, mean ± std (its own encoders and budget)",
        ),
    ]
    axis.figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=len(handles))
    axis.set_xticks(range(len(experiments)), experiments)
    axis.set(title="Every run", ylabel="test micro IoU, percent", ylim=(None, 100))
    axis.grid(axis="y", alpha=0.3)


def _draw_differences(axis: Any, found: Sequence[InitDifference], inits: Sequence[str]) -> None:
    names = list(dict.fromkeys(d.experiment for d in found))
    others = list(dict.fromkeys(d.init for d in found))
    for difference in found:
        offset = (others.index(difference.init) - (len(others) - 1) / 2) * 0.7 / len(others)
        y = names.index(difference.experiment) + offset
        colour, paired = _colour(inits, difference.init), difference.paired
        if not math.isnan(paired.bootstrap.low):
            low, high = 100 * paired.bootstrap.low, 100 * paired.bootstrap.high
            axis.hlines(y, low, high, color=colour, lw=2)
        values = 100 * np.array(paired.values)
        axis.scatter(values, [y + 0.1] * len(values), s=12, color=colour, alpha=0.5, lw=0)
        axis.scatter(100 * paired.mean, y, s=46, marker="|", color=colour, lw=2.5)
    axis.axvline(0, color="0.3", lw=1)
    axis.set_yticks(range(len(names)), ["all, equally\nweighted" if n == ALL else n for n in names])
    axis.set(
        title=f"Pairs: less {found[0].baseline}, {CONFIDENCE:.0%} bootstrap",
        xlabel="points of test micro IoU",
        ylim=(len(names) - 0.5, -0.5),
    )
    axis.grid(axis="x", alpha=0.3)


def _map_rows(
    experiment: str, best: Mapping[str, "pd.Series[Any]"], data: Path | None
) -> list[list[Panel]]:
    """The micrographs, then the maps of each initialisation's best run."""
    first = next(iter(best.values()))
    names = list(first.image_micro_iou)[:_MAX_IMAGES]
    images = _test_images(first, data)
    rows = []
    if all(name in images for name in names):
        pixels = [read_pixels(images[name]) for name in names]
        rows.append([Panel(p, f"{experiment}: {n}") for p, n in zip(pixels, names, strict=True)])
    for init, run in best.items():
        maps = {name: _merged_map(run.folder, name) for name in names}
        rows.append(
            [
                Panel(merged, f"{experiment}, {init}: {100 * run.image_micro_iou[name]:.1f} %")
                for name, merged in maps.items()
                if merged is not None
            ]
        )
    return rows


def _test_images(run: "pd.Series[Any]", data: Path | None) -> dict[str, Path]:
    """Name -> test image; empty where they are gone."""
    try:
        found = find_splits(data or run.config.data, run.config.entries)
    except UserError:
        return {}
    return {pair.name: pair.image for pair in found["test"].pairs} if "test" in found else {}


def _merged_map(folder: Path, name: str) -> Pixels | None:
    """The maps of all classes in one. Of two faults in a pixel, the missed class is shown."""
    paths = sorted(RunPaths(folder).maps.glob(f"*/{name}.png"))
    maps = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    if not maps:
        return None
    merged = np.zeros_like(maps[0])
    for kind in ("false positive", "false negative", "true positive"):
        for picture in maps:
            merged[(picture == AGREEMENT[kind]).all(-1)] = AGREEMENT[kind]
    return merged


def _colour(inits: Sequence[str], init: str) -> str | tuple[float, float, float]:
    """One of Okabe and Ito's; grey for random weights, whichever others there are."""
    if init == "random":
        return "#555555"
    others = [name for name in inits if name != "random"]
    order = (7, 6, 3, 5, 1, 2)
    return matplotlib_colour(CLASS_COLOURS[order[others.index(init) % len(order)]])
