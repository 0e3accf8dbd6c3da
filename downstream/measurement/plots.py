"""Plot phase fractions with their intervals, distributions of sizes, and layer thickness."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # not pyplot, which needs a display and keeps global state

from downstream.measurement.config import MeasureConfig
from downstream.measurement.fractions import Fraction
from downstream.measurement.layers import layer_parts
from downstream.measurement.tables import ALL, MaskMeasurement
from downstream.scoring.overlays import class_colour

MAX_IMAGES = 40  # plotted individually
_BINS = 24
_MARKERS = "osD^v"  # for layers, which may share a class and thus its colour


def draw_plots(
    config: MeasureConfig, measured: Sequence[MaskMeasurement], overall: Mapping[str, Fraction]
) -> None:
    """Write fractions.png, sizes.png and, if layers were requested, layers.png."""
    _draw_fractions(config, measured, overall).savefig(config.out / "fractions.png", dpi=110)
    if any(len(found.area) for item in measured for found in item.regions.values()):
        _draw_sizes(config, measured).savefig(config.out / "sizes.png", dpi=110)
    if config.layers:
        _draw_layers(config, measured).savefig(config.out / "layers.png", dpi=110)


def _draw_fractions(
    config: MeasureConfig, measured: Sequence[MaskMeasurement], overall: Mapping[str, Fraction]
) -> Figure:
    shown = measured[:MAX_IMAGES]
    labels = [item.name for item in shown]
    groups = [item.fractions for item in shown]
    if len(measured) > 1:
        labels, groups = [*labels, ALL], [*groups, dict(overall)]
    figure, axis = _figure_by_image(labels)
    for index, name in enumerate(overall):
        values = np.array([group[name].value for group in groups])
        lows = np.array([group[name].low for group in groups])
        highs = np.array([group[name].high for group in groups])
        errors = np.nan_to_num(np.clip([values - lows, highs - values], 0, None))
        places = np.arange(len(groups)) + 0.12 * (index - (len(overall) - 1) / 2)
        axis.errorbar(
            places, values, errors, fmt="o", capsize=3, color=_colour(index), label=name, ms=4
        )
    axis.set(ylabel="area fraction", ylim=(0, None), title=f"{config.confidence:.0%} intervals")
    figure.legend(loc="outside upper right", ncols=4)
    return figure


def _draw_sizes(config: MeasureConfig, measured: Sequence[MaskMeasurement]) -> Figure:
    names = list(measured[0].regions)
    figure = Figure(figsize=(9, 3.2 * len(names)), layout="constrained")
    axes: Any = figure.subplots(len(names), 2, squeeze=False)
    for row, name in enumerate(names):
        parts = [item.regions[name] for item in measured]
        diameter = np.concatenate([part.diameter for part in parts]) * config.length
        aspect = np.concatenate([part.aspect for part in parts])
        weight = np.concatenate([part.weight for part in parts])
        index = list(measured[0].fractions).index(name)
        histograms = (
            (diameter, f"equivalent diameter in {config.length_unit}"),
            (aspect, "aspect: major over minor axis"),
        )
        for axis, (values, title) in zip(axes[row], histograms, strict=True):
            known = (weight > 0) & np.isfinite(values)
            if known.any():
                axis.hist(values[known], _BINS, weights=weight[known], color=_colour(index))
            axis.set(xlabel=title, ylabel="regions, border corrected", title=name)
            axis.grid(alpha=0.3)
    return figure


def _draw_layers(config: MeasureConfig, measured: Sequence[MaskMeasurement]) -> Figure:
    shown = measured[:MAX_IMAGES]
    figure, axis = _figure_by_image([item.name for item in shown])
    for number, name in enumerate(config.layers):
        index = list(measured[0].fractions).index(layer_parts(name)[0])
        means = np.array([item.layers[name].mean for item in shown]) * config.length
        spreads = np.array([item.layers[name].std for item in shown]) * config.length
        places = np.arange(len(shown)) + 0.15 * (number - (len(config.layers) - 1) / 2)
        marker = _MARKERS[number % len(_MARKERS)]
        axis.errorbar(
            places, means, spreads, fmt=marker, capsize=3, color=_colour(index), label=name
        )
    axis.set(
        ylabel=f"thickness in {config.length_unit}",
        ylim=(0, None),
        title="mean and spread along the layer",
    )
    figure.legend(loc="outside upper right", ncols=4)
    return figure


def _figure_by_image(names: Sequence[str]) -> tuple[Figure, Any]:
    """A figure and its axes, with a tick for each image."""
    figure = Figure(figsize=(max(5, 1.5 + 0.5 * len(names)), 4.5), layout="constrained")
    axis = figure.subplots()
    axis.set_xticks(range(len(names)), [_shorten(name) for name in names], rotation=60, ha="right")
    axis.grid(axis="y", alpha=0.3)
    return figure, axis


def _colour(index: int) -> tuple[float, ...]:
    """As in the overlays, but grey for the first class, which is black there."""
    return tuple(c / 255 for c in class_colour(index)) if index else (0.5, 0.5, 0.5)


def _shorten(name: str, length: int = 24) -> str:
    return name if len(name) <= length else f"{name[: length - 8]}…{name[-7:]}"
