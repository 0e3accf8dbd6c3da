"""Paper A's figure 2: (a) top-1 of each arch from both initialisations, (b) against ImageNet."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from launch.results.results import imagenet_top1, micronet_top1, order_inits
from pretrain.cards.archs import ARCHS

matplotlib.use("Agg")  # draws to files only; must come before pyplot
from matplotlib import pyplot as plt

# The paper's dark and light blue; a colour that both kinds of colour blindness tell apart.
_COLOURS = {"random": "#08306b", "imagenet": "#6baed6"}
_OTHER_COLOURS = ("#d95f02", "#7570b3", "#66a61e")
_LABELS = {"random": "from random weights", "imagenet": "from ImageNet"}


def draw_figure(results: pd.DataFrame, path: Path) -> None:
    """Draw both panels to a PNG, of results with the columns arch, init, top1 and converged."""
    archs = [arch for arch in ARCHS if arch in set(results.arch)]
    width = max(9.0, 3.5 + 0.32 * len(archs))
    figure, axes = plt.subplots(
        2, 1, figsize=(width, 10), height_ratios=(1, 1.15), layout="constrained"
    )
    top1 = pd.to_numeric(results.top1) if "top1" in results else float("nan")
    imagenet = results.arch.map({arch: 100 * top1 for arch, top1 in imagenet_top1().items()})
    pairs = zip(results.arch, results.init, strict=True)
    paper = [100 * micronet_top1().get(pair, float("nan")) for pair in pairs]
    frame = results.assign(top1=100 * top1, imagenet=imagenet, paper=paper)
    _draw_bars(axes[0], frame, archs)
    _draw_scatter(axes[1], frame)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_bars(axis: Any, results: pd.DataFrame, archs: list[str]) -> None:
    inits = order_inits(results.init)
    space = 0.8 / len(inits)
    for number, init in enumerate(inits):
        offset = (number - (len(inits) - 1) / 2) * space
        ours = results[results.init == init]
        places = ours.arch.map(archs.index) + offset
        bars = axis.bar(places, ours.top1, space, color=_colour(init, number), label=_label(init))
        for bar, converged in zip(bars, ours.converged, strict=True):
            if converged is False:
                bar.set(hatch="///", edgecolor="white")
                top = (bar.get_x() + space / 2, bar.get_height())
                axis.annotate("X", top, ha="center", va="bottom", color="#b30000", fontsize=10)
        label = "published (paper A)" if number == 0 else None
        mark = {"marker": "_", "s": 90 * space, "linewidth": 2, "color": "black", "zorder": 3}
        axis.scatter(places, ours.paper, label=label, **mark)
    axis.set_xticks(range(len(archs)), archs, rotation=60, ha="right", fontsize=8)
    axis.set(
        title="(a) Top-1 on the validation images; hatched and crossed: not converged",
        ylabel="top-1 (%)",
        xlim=(-0.7, len(archs) - 0.3),
        ylim=(0, 104),
    )
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.38), ncols=4, frameon=False)


def _draw_scatter(axis: Any, results: pd.DataFrame) -> None:
    shown = results.dropna(subset=["imagenet"]).assign(
        top1=lambda frame: frame.top1.mask(frame.converged.eq(False)),
        paper=lambda frame: frame.paper.mask(frame.paper <= _CHANCE),
    )
    converged = shown.dropna(subset=["top1"]).groupby("arch", sort=False)
    for _, runs in converged:  # one architecture, from all its initialisations
        axis.plot(runs.imagenet, runs.top1, color="0.8", linewidth=1, zorder=1)
    for number, init in enumerate(order_inits(results.init)):
        colour, runs = _colour(init, number), shown[shown.init == init]
        axis.scatter(runs.imagenet, runs.top1, color=colour, label=_label(init), zorder=3)
        label = f"published, {_label(init)}"
        open_circle = {"facecolors": "none", "edgecolors": colour, "linewidths": 0.8, "s": 22}
        axis.scatter(runs.imagenet, runs.paper, label=label, zorder=2, **open_circle)
    lowest = float(np.nanmin(shown[["top1", "paper"]].to_numpy(float), initial=104))
    axis.set(
        title="(b) Against the accuracy of the same architecture on ImageNet (converged runs)",
        xlabel="ImageNet top-1 (%)",
        ylabel="top-1 on our validation images (%)",
        ylim=(max(0.0, lowest - 4) if lowest < 104 else 0.0, 104),
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right", framealpha=0.95)
    _name_points(axis, {str(a): (runs.imagenet.iloc[0], runs.top1.max()) for a, runs in converged})


# Percent; the paper's two diverged runs lie below it (1.4 and 2.0 %).
_CHANCE = 5

# Where a label may stand, in points from its dot: the first place that is free.
_PLACES = [(dx, dy) for dy in (4, -9, 12, -17, 20, -25, 28) for dx in (4, -50)]


def _name_points(axis: Any, points: dict[str, tuple[float, float]]) -> None:
    """Write each name beside its point, off the other names where there is room."""
    axis.figure.canvas.draw()  # fixes the layout, and with it the pixels of a point
    taken: list[Any] = []
    for name, point in sorted(points.items(), key=lambda item: -item[1][1]):
        text = None
        for place in _PLACES:
            if text is not None:
                text.remove()
            text = axis.annotate(name, point, place, textcoords="offset points", fontsize=6)
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


def _colour(init: str, number: int) -> str:
    return _COLOURS.get(init) or _OTHER_COLOURS[number % len(_OTHER_COLOURS)]


def _label(init: str) -> str:
    return _LABELS.get(init, f"from {Path(init).name}")
