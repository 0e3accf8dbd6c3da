"""The report as a picture: distances of images, mIoU to expect, phase fractions."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from downstream.seg.pictures import class_colour
from downstream.uda.transfer.observers import Observer, study_of
from downstream.uda.transfer.report import DomainReport, mean_limits
from pretrain.atomic import write_atomically

matplotlib.use("Agg")  # draws to files only; must come before pyplot
from matplotlib import pyplot as plt

_ADVICE_COLOURS = {"trust": "#2a9d5c", "adapt": "#e09f1f", "label": "#c8403a"}
_DPI = 110


def draw_report(
    observers: Sequence[Observer], domains: Sequence[DomainReport], tolerance: float, path: Path
) -> None:
    """Three panels: images by distance, expected mIoU, phase fractions with intervals."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    _draw_distances(axes[0], observers, domains)
    _draw_expected(axes[1], domains, tolerance)
    _draw_fractions(axes[2], domains, study_of(observers).class_names)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    plt.close(figure)
    write_atomically(path, stream.getvalue())


def _draw_distances(
    axis: Any, observers: Sequence[Observer], domains: Sequence[DomainReport]
) -> None:
    limits = mean_limits(observers)
    for number, domain in enumerate(domains):
        near = [image.signs for image in domain.images]
        axis.scatter(
            [signs.features for signs in near],
            [1.0 if np.isnan(signs.batchnorm) else signs.batchnorm for signs in near],
            s=22,
            color=f"C{number}",
            label=domain.name,
            alpha=0.8,
        )
    axis.scatter([1], [1], marker="*", s=130, color="black", label="usual source image", zorder=3)
    axis.axvline(limits[0], color="grey", ls=":", lw=1)
    axis.axhline(limits[1], color="grey", ls=":", lw=1)
    axis.set(xscale="log", yscale="log")
    axis.set_xlabel("distance of features, source images: 1")
    axis.set_ylabel("distance of batch norm's statistics")
    axis.set_title("Target images (dotted: usual up to here)", fontsize=10)
    axis.legend(fontsize=8)


def _draw_expected(axis: Any, domains: Sequence[DomainReport], tolerance: float) -> None:
    source = domains[0].expected.source_miou
    axis.axhline(source, color="black", lw=1, label="source")
    axis.axhspan(source - tolerance, source, color="black", alpha=0.08, label="tolerated")
    for place, domain in enumerate(domains):
        expected, colour = domain.expected, _ADVICE_COLOURS[domain.verdict.advice]
        axis.errorbar(
            place - 0.1, expected.miou, expected.error, fmt="o", color=colour, capsize=3, ms=7
        )
        if expected.adapted_miou is not None:
            axis.errorbar(
                place + 0.1, expected.adapted_miou, expected.error, fmt="^", color=colour, ms=7
            )
        if domain.checked:
            axis.plot(place - 0.2, domain.checked.miou, "x", color="black")
            axis.plot(place + 0.2, domain.checked.adapted_miou, "x", color="grey")
    axis.plot([], [], "o", color="grey", label="expected as it is")
    axis.plot([], [], "^", color="grey", label="with the images' statistics")
    axis.plot([], [], "x", color="black", label="checked (labels)")
    axis.set_xticks(
        range(len(domains)), [f"{domain.name}\n{domain.verdict.advice}" for domain in domains]
    )
    axis.set_xlim(-0.6, len(domains) - 0.4)
    axis.set_title("mIoU", fontsize=10)
    axis.legend(fontsize=8)


def _draw_fractions(axis: Any, domains: Sequence[DomainReport], names: Sequence[str]) -> None:
    shown = range(1, len(names))  # of two classes, one fraction says all
    for index in shown:
        colour = np.array(class_colour(index)) / 255
        for place, domain in enumerate(domains):
            at = place + 0.16 * (index - len(names) / 2)
            own = domain.fractions[index]
            ends = [[own.value - own.low], [own.high - own.value]]
            axis.errorbar(at, own.value, ends, fmt="s", color=colour, capsize=4, ms=6)
            runs = domain.run_fractions[:, index]
            axis.plot([at + 0.06] * len(runs), runs, "_", color=colour, ms=9)
            if domain.checked:
                axis.plot(at, domain.checked.fractions[index], "x", color="black", zorder=3)
        axis.plot([], [], "s", color=colour, label=names[index])
    axis.plot([], [], "_", color="grey", label="single runs")
    axis.plot([], [], "x", color="black", label="checked (labels)")
    axis.set_xticks(range(len(domains)), [domain.name for domain in domains])
    axis.set_xlim(-0.6, len(domains) - 0.4)
    axis.set_ylim(0, 1)
    axis.set_title("Phase fractions of the material", fontsize=10)
    axis.legend(fontsize=8)
