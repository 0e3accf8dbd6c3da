"""The study's figures: IoU of every run, paired differences, and maps of the best runs. No torch.

Paper A's figures 3 (Super-1 to -3), 4 (Super-4) and 5 (EBC) show the best network of each
initialisation on test images: true positives white, false cyan, missed magenta.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from downstream.bench.paired import ALL, CONFIDENCE, Difference
from downstream.bench.published import published_rows
from downstream.bench.runs import Run, in_order
from downstream.bench.scores import best_run
from downstream.seg.dataset import read_pixels
from downstream.seg.layout import find_splits
from downstream.seg.pictures import AGREEMENT, CLASS_COLOURS
from downstream.seg.run_folder import RunPaths
from pretrain.atomic import write_atomically
from shards.cli import UserError
from shards.images import Pixels

matplotlib.use("Agg")  # draws to files only; must come before pyplot
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

_DPI = 110
_MOST_IMAGES = 5  # of an experiment: Super-4 has five test images


def draw_scores(runs: Sequence[Run], found: Sequence[Difference], path: Path) -> None:
    """Test micro IoU of each run by experiment and init; beside it the paired differences."""
    experiments = in_order(run.experiment for run in runs if run.scored)
    inits = in_order(run.init for run in runs if run.scored)
    figure, axes = plt.subplots(
        1,
        2 if found else 1,
        figsize=(5 + len(experiments) + (4.2 if found else 0), 4.8),
        width_ratios=(1.2, 1) if found else None,
        squeeze=False,
        layout="constrained",
    )
    _draw_points(axes[0, 0], runs, experiments, inits)
    if found:
        _draw_differences(axes[0, 1], found, inits)
    _save(figure, path)


def draw_maps(runs: Sequence[Run], out: Path, data: Path | None) -> list[str]:
    """Draw figure3.png to figure5.png of the experiments that ran; returns the names written.

    `data` is where the test images lie; without it, where each run had them. Images that are not
    there any more are left out.
    """
    experiments = in_order(run.experiment for run in runs)
    figures = {
        "figure3.png": [e for e in experiments if e in ("Super-1", "Super-2", "Super-3")],
        "figure4.png": [e for e in experiments if e == "Super-4"],
        "figure5.png": [e for e in experiments if e.startswith("EBC-")],
    }
    of_paper = [experiment for part in figures.values() for experiment in part]
    figures["figure-own.png"] = [e for e in experiments if e not in of_paper]
    written = []
    for name, shown in figures.items():
        blocks = {e: _best_runs([r for r in runs if r.experiment == e]) for e in shown}
        blocks = {experiment: best for experiment, best in blocks.items() if best}
        if blocks:
            _draw_map_figure(blocks, data, out / name)
            written.append(name)
    return written


def _draw_points(
    axis: Any, runs: Sequence[Run], experiments: Sequence[str], inits: Sequence[str]
) -> None:
    space = 0.8 / len(inits)
    printed = published_rows("2")
    for number, init in enumerate(inits):
        colour = _colour(inits, init)
        for place, experiment in enumerate(experiments):
            x = place + (number - (len(inits) - 1) / 2) * space
            cell = [r for r in runs if r.scored and r.init == init and r.experiment == experiment]
            paper = printed.get(init, {}).get(experiment)
            if paper is not None:
                axis.errorbar(
                    x + 0.32 * space, 100 * paper.iou, 100 * (paper.std or 0), fmt="D", ms=3,
                    color="0.6", lw=1, zorder=1,
                )  # fmt: skip
            if not cell:
                continue
            scores = np.array([100 * (run.micro_iou or 0) for run in cell])
            failed = np.array([bool(run.failure) for run in cell])
            spread = (np.arange(len(cell)) - (len(cell) - 1) / 2) * min(0.08, space / len(cell) / 2)
            for mask, marker in ((~failed, "o"), (failed, "x")):
                axis.scatter((x + spread)[mask], scores[mask], s=26, marker=marker, color=colour)
            axis.hlines(scores.mean(), x - 0.2 * space, x + 0.2 * space, color=colour, lw=2)
    handles = [Line2D([], [], marker="o", ls="", color=_colour(inits, i), label=i) for i in inits]
    handles.append(Line2D([], [], color="0.3", lw=2, label="mean"))
    if any(run.failure and run.scored for run in runs):
        handles.append(Line2D([], [], marker="x", ls="", color="0.3", label="failed"))
    if any(experiment in printed.get(init, {}) for init in inits for experiment in experiments):
        label = "paper A, mean ± std (over its encoders; other budget)"
        handles.append(Line2D([], [], marker="D", ms=3, color="0.6", lw=1, label=label))
    axis.figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=len(handles))
    axis.set_xticks(range(len(experiments)), experiments)
    axis.set(
        ylabel="test micro IoU, percent", xlim=(-0.5, len(experiments) - 0.5), ylim=(None, 100)
    )
    axis.set_title("Every run", fontsize=11)
    axis.grid(axis="y", alpha=0.3)


def _draw_differences(axis: Any, found: Sequence[Difference], inits: Sequence[str]) -> None:
    names = list(dict.fromkeys(difference.experiment for difference in found))
    others = list(dict.fromkeys(difference.init for difference in found))
    for difference in found:
        offset = (others.index(difference.init) - (len(others) - 1) / 2) * 0.7 / len(others)
        y = names.index(difference.experiment) + offset
        colour = _colour(inits, difference.init)
        if difference.low == difference.low:  # not nan
            axis.hlines(y, 100 * difference.low, 100 * difference.high, color=colour, lw=2)
        values = [100 * value for value in difference.values]
        axis.scatter(values, [y + 0.1] * len(values), s=12, color=colour, alpha=0.5, lw=0)
        axis.scatter(100 * difference.mean, y, s=46, marker="|", color=colour, lw=2.5)
    axis.axvline(0, color="0.3", lw=1)
    labels = ["all, equally\nweighted" if name == ALL else name for name in names]
    axis.set_yticks(range(len(names)), labels)
    axis.set(ylim=(len(names) - 0.5, -0.5), xlabel="points of test micro IoU")
    what = f"{others[0]} less " if len(others) == 1 else "less "
    axis.set_title(f"Pairs: {what}{found[0].baseline}, {CONFIDENCE:.0%} bootstrap", fontsize=11)
    axis.grid(axis="x", alpha=0.3)


def _best_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Init -> its best run that kept its maps."""
    best = {
        init: best_run([run for run in runs if run.init == init], by_test=True)
        for init in in_order(run.init for run in runs)
    }
    return {i: run for i, run in best.items() if run and RunPaths(run.folder).maps.is_dir()}


def _draw_map_figure(blocks: dict[str, dict[str, Run]], data: Path | None, path: Path) -> None:
    """A block of rows for each experiment: the micrographs, then the maps of each init."""
    rows: list[tuple[str, list[Pixels | None], list[str]]] = []
    above: list[str] = []
    for experiment, best in blocks.items():
        names = list(next(iter(best.values())).image_micro_iou or ())[:_MOST_IMAGES]
        images = _micrographs(next(iter(best.values())), data)
        if images and names != above:  # Super-1 to -3 share their test images
            above = names
            pictures = [read_pixels(images[n]) if n in images else None for n in names]
            rows.append((f"{experiment}\ntest image", pictures, names))
        for init, run in best.items():
            maps = [_merged_map(run, name) for name in names]
            scores = [f"IoU {100 * (run.image_micro_iou or {})[name]:.1f} %" for name in names]
            title = f"{experiment}\n{init}: {100 * (run.micro_iou or 0):.1f} %\nseed {run.seed}"
            rows.append((title, list(maps), scores))
    columns = max(len(pictures) for _, pictures, _ in rows)
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(1.9 * columns + 1.0, 2.05 * len(rows) + 0.6),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for line, (title, pictures, captions) in zip(axes, rows, strict=True):
        line[0].set_ylabel(title, fontsize=8)
        for axis, picture, caption in zip(line, pictures, captions, strict=False):
            if picture is not None:
                axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
            axis.set_xlabel(caption, fontsize=7)
    handles = [
        Patch(facecolor=_rgb(colour), edgecolor="0.4", label=label)
        for label, colour in AGREEMENT.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(
        "Best run of each initialisation by test IoU; all classes but the background as one",
        fontsize=10,
    )
    _save(figure, path)


def _micrographs(run: Run, data: Path | None) -> dict[str, Path]:
    """Name -> test image, or nothing where they are not at hand."""
    try:
        found = find_splits(data or run.config.data, run.config.entries)
    except UserError:
        return {}
    return {pair.name: pair.image for pair in found["test"].pairs} if "test" in found else {}


def _merged_map(run: Run, name: str) -> Pixels | None:
    """The maps of all classes in one. Of two faults in a pixel, the missed class is shown."""
    maps = [
        np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))
        for folder in sorted(RunPaths(run.folder).maps.iterdir())
        if (folder / f"{name}.png").is_file()
    ]
    if not maps:
        return None
    merged = np.zeros_like(maps[0])
    for kind in ("false positive", "false negative", "true positive"):
        for picture in maps:
            merged[(picture == AGREEMENT[kind]).all(-1)] = AGREEMENT[kind]
    return merged


def _colour(inits: Sequence[str], init: str) -> str | tuple[float, float, float]:
    """Of Okabe and Ito's; grey for random weights, whichever others there are."""
    if init == "random":
        return "#555555"
    others = [name for name in inits if name != "random"]
    order = (7, 6, 3, 5, 1, 2)
    return _rgb(CLASS_COLOURS[order[others.index(init) % len(order)]])


def _save(figure: Figure, path: Path) -> None:
    """As a PNG of 256 colours: maps have few, and it is a third of the size."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=_DPI)
    plt.close(figure)
    picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(small, "PNG", optimize=True)
    write_atomically(path, small.getvalue())


def _rgb(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
