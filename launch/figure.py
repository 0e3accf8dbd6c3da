"""Paper A's figure 2: (a) top-1 of each arch from both initialisations, (b) against ImageNet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from launch.literature import imagenet_accuracy, in_order, micronet_accuracy
from launch.results import Result
from pretrain.archs import ARCHS

matplotlib.use("Agg")  # draws to files only; must come before pyplot
from matplotlib import pyplot as plt

# The paper's dark and light blue; a colour that both kinds of colour blindness tell apart.
_COLOURS = {"random": "#08306b", "imagenet": "#6baed6"}
_OTHER_COLOURS = ("#d95f02", "#7570b3", "#66a61e")
_LABELS = {"random": "from random weights", "imagenet": "from ImageNet"}


def draw_figure(results: Sequence[Result], path: Path) -> None:
    """Draw both panels to a PNG."""
    archs = [arch for arch in ARCHS if any(_arch(r) == arch for r in results)]
    width = max(9.0, 3.5 + 0.32 * len(archs))
    figure, axes = plt.subplots(
        2, 1, figsize=(width, 10), height_ratios=(1, 1.15), layout="constrained"
    )
    _draw_bars(axes[0], results, archs)
    _draw_scatter(axes[1], results)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_bars(axis: Any, results: Sequence[Result], archs: Sequence[str]) -> None:
    inits = _inits(results)
    paper = micronet_accuracy()
    space = 0.8 / len(inits)
    for number, init in enumerate(inits):
        offset = (number - (len(inits) - 1) / 2) * space
        ours = {_arch(r): r for r in results if _init(r) == init and "top1" in r.metrics}
        places = [archs.index(arch) + offset for arch in ours]
        bars = axis.bar(
            places,
            [100 * r.metrics["top1"] for r in ours.values()],
            space,
            color=_colour(init, number),
            label=_label(init),
        )
        for bar, result in zip(bars, ours.values(), strict=True):
            if result.converged is False:
                bar.set(hatch="///", edgecolor="white")
                _cross(axis, bar.get_x() + space / 2, bar.get_height())
        known = [arch for arch in archs if (arch, init) in paper]
        axis.scatter(
            [archs.index(arch) + offset for arch in known],
            [100 * paper[arch, init].top1 for arch in known],
            marker="_",
            s=90 * space,
            linewidth=2,
            color="black",
            zorder=3,
            label="published (paper A)" if number == 0 else None,
        )
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


def _draw_scatter(axis: Any, results: Sequence[Result]) -> None:
    imagenet, paper = imagenet_accuracy(), micronet_accuracy()
    shown = [r for r in results if "top1" in r.metrics and r.converged is not False]
    shown = [r for r in shown if _arch(r) in imagenet]
    tops: dict[str, list[float]] = {}
    for result in shown:
        tops.setdefault(_arch(result), []).append(100 * result.metrics["top1"])
    for arch, values in tops.items():  # the same architecture, from all its initialisations
        x = 100 * imagenet[arch].top1
        axis.plot([x, x], [min(values), max(values)], color="0.8", linewidth=1, zorder=1)
    lowest = [min(values) for values in tops.values()]
    for number, init in enumerate(_inits(results)):
        colour = _colour(init, number)
        ours = [r for r in shown if _init(r) == init]
        axis.scatter(
            [100 * imagenet[_arch(r)].top1 for r in ours],
            [100 * r.metrics["top1"] for r in ours],
            color=colour,
            label=_label(init),
            zorder=3,
        )
        archs = {_arch(r) for r in results if _init(r) == init}
        known = [a for a in archs if (a, init) in paper and a in imagenet]
        known = [a for a in known if paper[a, init].top1 > _CHANCE]
        axis.scatter(
            [100 * imagenet[a].top1 for a in known],
            [100 * paper[a, init].top1 for a in known],
            facecolors="none",
            edgecolors=colour,
            linewidths=0.8,
            s=22,
            label=f"published, {_label(init)}",
            zorder=2,
        )
        lowest += [100 * paper[a, init].top1 for a in known]
    axis.set(
        title="(b) Against the accuracy of the same architecture on ImageNet (converged runs)",
        xlabel="ImageNet top-1 (%)",
        ylabel="top-1 on our validation images (%)",
        ylim=(max(0.0, min(lowest, default=0.0) - 4), 104),
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right", framealpha=0.95)
    _name_points(axis, {a: (100 * imagenet[a].top1, max(v)) for a, v in tops.items()})


# Under it the paper's two diverged runs lie (1.4 and 2.0 %).
_CHANCE = 0.05

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


def _inits(results: Sequence[Result]) -> list[str]:
    return in_order({_init(r) for r in results})


def _cross(axis: Any, x: float, y: float) -> None:
    axis.annotate("X", (x, y), ha="center", va="bottom", color="#b30000", fontsize=10)


def _colour(init: str, number: int) -> str:
    return _COLOURS.get(init) or _OTHER_COLOURS[number % len(_OTHER_COLOURS)]


def _label(init: str) -> str:
    return _LABELS.get(init, f"from {Path(init).name}")


def _arch(result: Result) -> str:
    return str(result.status.task.settings["arch"])


def _init(result: Result) -> str:
    return str(result.status.task.settings["init"])
