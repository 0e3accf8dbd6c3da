"""Pictures of a run: its curves over the epochs, and its confusion matrix.

Imports no torch.
"""

import io
import time
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # not pyplot: no state, no screen
from matplotlib.ticker import MaxNLocator, PercentFormatter

from micrograph.atomic import write_atomically
from micrograph.cli import warn
from pretrain.runs.metrics_log import Confusion, Record

CURVES_NAME = "curves.png"
CONFUSION_NAME = "confusion.png"
REDRAW_SECONDS = 60.0  # at least, between two drawings: 54 classes take about a second

_DPI = 120
_CELL = 0.3  # inches of a class in the confusion matrix: two digits are legible
_NUMBERS_FROM = 0.005  # smaller fractions would read 0
_TRAINING, _VALIDATION = "tab:blue", "tab:orange"
# Name in the records -> label, colour and style.
_LOSSES = {
    "train_loss": ("training", _TRAINING, "-"),
    "val_loss": ("validation", _VALIDATION, "-"),
}
_ACCURACIES = {
    "val_top1": ("validation top-1", _VALIDATION, "-"),
    "val_balanced_accuracy": ("validation, mean of classes", _VALIDATION, "--"),
    "val_top5": ("validation top-5", _VALIDATION, ":"),
}
_RATES = {"lr": ("learning rate", _TRAINING, "-")}


def curves_png(records: Sequence[Record], title: str = "") -> bytes:
    """Loss, accuracy and learning rate over the epochs, as PNG; the best epoch is marked."""
    figure = Figure(figsize=(8, 9), dpi=_DPI, layout="constrained")
    figure.suptitle(title)
    loss, accuracy, rate = figure.subplots(3, sharex=True, height_ratios=(3, 3, 1))
    epochs = [record["epoch"] for record in records]
    _lines(loss, epochs, records, _LOSSES)
    loss.set_ylabel("loss")
    _lines(accuracy, epochs, records, _ACCURACIES)
    accuracy.set_ylabel("accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    _lines(rate, epochs, records, _RATES)
    rate.set_ylabel("learning rate")
    rate.set_xlabel("epoch")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    if (best := best_record(records)) is not None:
        for axes in (loss, accuracy, rate):
            axes.axvline(best["epoch"], color="0.4", linestyle=":", linewidth=1)
        label = f"best: {best['val_top1']:.1%}, epoch {best['epoch']:.0f}"
        accuracy.plot(best["epoch"], best["val_top1"], "o", color="black", label=label)
    for axes in (loss, accuracy):
        axes.legend(frameon=False, fontsize="small")
        axes.grid(alpha=0.3)
    return _png(figure)


def confusion_png(confusion: Confusion, classes: Sequence[str], title: str = "") -> bytes:
    """The confusion matrix as PNG: a row per true class, in fractions of its images."""
    counts = np.asarray(confusion, dtype=np.int64)
    members = counts.sum(1)
    fractions = counts / np.maximum(members, 1)[:, None]
    side = _CELL * len(classes)
    figure = Figure(figsize=(side + 4, side + 3), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    shown = np.ma.masked_array(fractions, np.repeat(members[:, None] == 0, len(classes), 1))
    axes.set_facecolor("0.9")  # rows of classes without images
    image = axes.imshow(shown, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(fractions >= _NUMBERS_FROM), strict=True):
        fraction = fractions[row, column]
        colour = "white" if fraction > 0.5 else "black"
        axes.text(
            column, row, f"{100 * fraction:.0f}", ha="center", va="center", fontsize=6, color=colour
        )
    ticks = range(len(classes))
    rows = [f"{name} ({count})" for name, count in zip(classes, members, strict=True)]
    axes.set_xticks(ticks, classes, rotation=90, fontsize=7)
    axes.set_yticks(ticks, rows, fontsize=7)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (validation images)")
    axes.set_title(title)
    axes.set_xticks(np.arange(len(classes)) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes)) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.5, format=PercentFormatter(1))
    bar.set_label("of the true class")
    return _png(figure)


def best_record(records: Sequence[Record]) -> Record | None:
    """The epoch whose weights are kept: the first with the highest validation top-1.

    Epochs without a finite loss are not kept, whatever they score.
    """
    finite = [record for record in records if isfinite(record.get("val_loss", 0.0))]
    return max(finite, key=lambda record: record["val_top1"]) if finite else None


class Pictures:
    """Keeps `curves.png` and `confusion.png` in a run's folder up to date.

    Drawing must neither slow down a run of short epochs nor end it: a failure gives a warning.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self._folder = folder
        self._classes = classes
        self._drawn_at = float("-inf")
        self._curves: Sequence[Record] = ()
        self._confusion: tuple[Confusion, str] | None = None

    def update(self, records: Sequence[Record], confusion: Confusion) -> list[Path]:
        """Add a finished epoch; returns the pictures that were drawn, often none."""
        self._curves = records
        newest = records[-1]
        if newest is best_record(records):
            title = f"epoch {newest['epoch']:.0f} (the best), top-1 {newest['val_top1']:.1%}"
            self._confusion = confusion, f"{self._folder.name}: {title}"
        due = time.monotonic() - self._drawn_at >= REDRAW_SECONDS
        return self.draw() if due else []

    def draw(self) -> list[Path]:
        """Draw what has changed; returns what was drawn."""
        curves, self._curves = self._curves, ()
        confusion, self._confusion = self._confusion, None
        drawn = []
        try:
            if curves:
                path = self._folder / CURVES_NAME
                write_atomically(path, curves_png(curves, self._folder.name))
                drawn.append(path)
            if confusion is not None:
                path = self._folder / CONFUSION_NAME
                write_atomically(path, confusion_png(confusion[0], self._classes, confusion[1]))
                drawn.append(path)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            warn(f"cannot draw into {self._folder}: {error}")
        self._drawn_at = time.monotonic()
        return drawn


def _lines(
    axes: Any,
    epochs: Sequence[float],
    records: Sequence[Record],
    styles: Mapping[str, tuple[str, str, str]],
) -> None:
    marker = "." if len(records) < 40 else None  # one epoch alone draws no line
    for name, (label, colour, style) in styles.items():
        if any(name in record for record in records):
            values = [record.get(name, float("nan")) for record in records]
            axes.plot(epochs, values, style, label=label, color=colour, marker=marker)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
