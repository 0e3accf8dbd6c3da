"""Tables of measurements: a list of rows for each CSV file. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from downstream.measurement.config import MeasureConfig
from downstream.measurement.fractions import Fraction, mean_fraction
from downstream.measurement.layers import Layer
from downstream.measurement.regions import Regions, weighted_mean, weighted_quantile
from micrograph.atomic import write_atomically

ALL = "all images"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class MaskMeasurement:
    """The measurements of one mask by class; lengths in pixels."""

    name: str
    pixels: int
    fractions: dict[str, Fraction]
    regions: dict[str, Regions]
    layers: dict[str, Layer]


def overall_fractions(
    config: MeasureConfig, measured: Sequence[MaskMeasurement]
) -> dict[str, Fraction]:
    """The fraction of each class over all images."""
    if len(measured) == 1:
        return measured[0].fractions
    areas = [item.pixels for item in measured]
    return {
        name: mean_fraction(
            [item.fractions[name].value for item in measured], areas, config.confidence, config.seed
        )
        for name in measured[0].fractions
    }


def size_rows(config: MeasureConfig, measured: Sequence[MaskMeasurement]) -> list[Row]:
    """One row per class, over the regions of all images."""
    length, unit = config.length, config.length_unit
    area = sum(item.pixels for item in measured) * length**2
    rows = []
    for name in measured[0].regions:
        found = [item.regions[name] for item in measured]
        weight = np.concatenate([part.weight for part in found])
        diameter = np.concatenate([part.diameter for part in found]) * length
        aspect = np.concatenate([part.aspect for part in found])
        mean = weighted_mean(diameter, weight)
        spread = weighted_mean((diameter - mean) ** 2, weight) ** 0.5
        rows.append(
            {
                "class": name,
                "regions": len(weight),
                "touching the border": int(sum(part.touches_border.sum() for part in found)),
                f"regions per {unit}²": float(weight.sum()) / area,
                f"mean diameter {unit}": mean,
                f"std diameter {unit}": spread,
                f"d10 {unit}": weighted_quantile(diameter, weight, 0.1),
                f"d50 {unit}": weighted_quantile(diameter, weight, 0.5),
                f"d90 {unit}": weighted_quantile(diameter, weight, 0.9),
                "mean aspect": weighted_mean(aspect, weight),
            }
        )
    return rows


def fraction_rows(
    measured: Sequence[MaskMeasurement], overall: Mapping[str, Fraction]
) -> list[Row]:
    rows = [
        _fraction_row(item.name, name, fraction)
        for item in measured
        for name, fraction in item.fractions.items()
    ]
    return rows + [_fraction_row(ALL, name, fraction) for name, fraction in overall.items()]


def _fraction_row(image: str, name: str, fraction: Fraction) -> Row:
    return {
        "image": image,
        "class": name,
        "fraction": fraction.value,
        "standard error": fraction.standard_error,
        "low": fraction.low,
        "high": fraction.high,
        "independent areas": fraction.independent_areas,
    }


def region_rows(config: MeasureConfig, measured: Sequence[MaskMeasurement]) -> list[Row]:
    length, unit = config.length, config.length_unit
    rows = []
    for item in measured:
        for name, found in item.regions.items():
            for i in range(len(found.area)):
                rows.append(
                    {
                        "image": item.name,
                        "class": name,
                        "x px": round(float(found.x[i]), 1),
                        "y px": round(float(found.y[i]), 1),
                        f"area {unit}²": float(found.area[i]) * length**2,
                        f"diameter {unit}": float(found.diameter[i]) * length,
                        f"major axis {unit}": float(found.major[i]) * length,
                        f"minor axis {unit}": float(found.minor[i]) * length,
                        "aspect": float(found.aspect[i]),
                        "touching the border": bool(found.touches_border[i]),
                        "weight": float(found.weight[i]),
                    }
                )
    return rows


def layer_rows(config: MeasureConfig, measured: Sequence[MaskMeasurement]) -> list[Row]:
    length, unit = config.length, config.length_unit
    return [
        {
            "image": item.name,
            "class": name,
            f"thickness {unit}": layer.mean * length,
            f"std {unit}": layer.std * length,
            f"min {unit}": layer.min * length,
            f"max {unit}": layer.max * length,
            f"area/length {unit}": layer.area_over_length * length,
            f"length {unit}": layer.length * length,
            "pieces": layer.pieces,
        }
        for item in measured
        for name, layer in item.layers.items()
    ]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write a table; an empty file without rows."""
    table = pandas.DataFrame(rows).map(_six_digits).to_csv(index=False) if rows else ""
    write_atomically(path, table.encode())


def _six_digits(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
