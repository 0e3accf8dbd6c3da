"""The figure of segmentation runs: the IoU of every run, and paired differences. No torch."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from downstream.labels.classes import format_value
from downstream.scoring.overlays import CLASS_COLOURS
from downstream.studies.report import save_figure
from downstream.studies.segment_runs import in_order
from downstream.studies.segment_tables import ALL, InitDifference
from micrograph.confidence_intervals import CONFIDENCE
from micrograph.literature_values import read_published

_PAPER_LABEL = "paper A, mean ± std (its own encoders and budget)"


def draw_scores(runs: pd.DataFrame, differences: Sequence[InitDifference], path: Path) -> None:
    """Draw the test micro IoU of each run, and the paired differences."""
    scored = runs[runs.micro_iou.notna()]
    experiments, inits = in_order(scored.experiment), in_order(scored.init)
    width = 5 + len(experiments) + (4.2 if differences else 0)
    figure = Figure((width, 4.8), layout="constrained")
    ratios = (1.2, 1) if differences else (1,)
    axes = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)
    _draw_runs(axes[0, 0], scored, experiments, inits)
    if differences:
        _draw_differences(axes[0, 1], differences, inits)
    save_figure(figure, path)


def _draw_runs(
    axis: Any, runs: pd.DataFrame, experiments: Sequence[str], inits: Sequence[str]
) -> None:
    space = 0.8 / len(inits)
    table = read_published("paper_a").query("table == '2'").set_index(["name", "experiment"])
    printed = table[["value", "std"]]
    for (init, experiment), cell in runs.groupby(["init", "experiment"]):
        colour = _colour(inits, str(init))
        x = experiments.index(experiment) + (inits.index(init) - (len(inits) - 1) / 2) * space
        spread = (np.arange(len(cell)) - (len(cell) - 1) / 2) * min(0.08, space / len(cell) / 2)
        scores, failed = 100 * cell.micro_iou.to_numpy(float), (cell.failure != "").to_numpy()
        for mask, marker in ((~failed, "o"), (failed, "x")):
            axis.scatter((x + spread)[mask], scores[mask], s=26, marker=marker, color=colour)
        axis.hlines(scores.mean(), x - 0.2 * space, x + 0.2 * space, color=colour, lw=2)
        if (init, experiment) in printed.index:
            mean, std = 100 * printed.xs((init, experiment)).fillna(0)
            axis.errorbar(x + 0.32 * space, mean, std, fmt="D", ms=3, color="0.6", lw=1, zorder=1)
    handles = [Line2D([], [], marker="o", ls="", color=_colour(inits, i), label=i) for i in inits]
    handles += [
        Line2D([], [], color="0.3", lw=2, label="mean"),
        Line2D([], [], marker="x", ls="", color="0.3", label="failed"),
        Line2D([], [], marker="D", ms=3, color="0.6", lw=1, label=_PAPER_LABEL),
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


def _colour(inits: Sequence[str], init: str) -> str:
    """A colour of `CLASS_COLOURS`; grey for random weights."""
    if init == "random":
        return "#555555"
    others = [name for name in inits if name != "random"]
    order = (7, 6, 3, 5, 1, 2)
    return format_value(CLASS_COLOURS[order[others.index(init) % len(order)]])
