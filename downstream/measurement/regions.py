"""Measure the connected regions of a class: size, shape and statistical weight. No torch.

A large region is more likely to touch the border of the image than a small one, so excluding those
that do biases sizes downwards. Each region inside therefore has the weight

    W H / ((W - w)(H - h))        Miles 1974; Lantuéjoul 1980; Serra 1982, ch. VIII

where w x h is its bounding box and W x H the image: the inverse of its probability not to touch the
border. Numbers per area and weighted means of sizes are then unbiased.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skimage.measure import label, regionprops_table

_PROPERTIES = (
    "label",
    "area",
    "equivalent_diameter_area",
    "axis_major_length",
    "axis_minor_length",
    "bbox",
    "centroid",
)
Column = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Regions:
    """The regions of one image, one value for each; lengths in pixels."""

    y: Column  # centroid
    x: Column
    area: Column  # pixels
    diameter: Column  # of the circle of equal area
    major: Column  # axes of the ellipse of equal second moments
    minor: Column
    touches_border: npt.NDArray[np.bool_]
    weight: Column  # in counts and means; 0: touches the border

    @property
    def aspect(self) -> Column:
        """Major over minor axis: 1 for a circle, nan for a line of pixels."""
        with np.errstate(divide="ignore", invalid="ignore"):
            aspect: Column = np.where(self.minor > 0, self.major / self.minor, np.nan)
        return aspect


def measure_regions(region: npt.NDArray[np.bool_], min_area: int) -> Regions:
    """Regions of at least `min_area` pixels, connected by sides or corners."""
    labels = label(region, connectivity=2)
    table = regionprops_table(labels, properties=_PROPERTIES)
    kept = table["area"] >= min_area
    found = {name: np.asarray(column, float)[kept] for name, column in table.items()}
    top, left, bottom, right = (found[f"bbox-{i}"] for i in range(4))
    height, width = region.shape
    touches_border = (top == 0) | (left == 0) | (bottom == height) | (right == width)
    positions = (height - (bottom - top)) * (width - (right - left))
    weight = np.where(touches_border, 0.0, height * width / np.maximum(positions, 1))
    return Regions(
        y=found["centroid-0"],
        x=found["centroid-1"],
        area=found["area"],
        diameter=found["equivalent_diameter_area"],
        major=found["axis_major_length"],
        minor=found["axis_minor_length"],
        touches_border=touches_border,
        weight=weight,
    )


def weighted_mean(values: Column, weights: Column) -> float:
    """Mean of the finite values with a positive weight; nan without any."""
    known = np.isfinite(values) & (weights > 0)
    return float(np.average(values[known], weights=weights[known])) if known.any() else float("nan")


def weighted_quantile(values: Column, weights: Column, fraction: float) -> float:
    """The value below which `fraction` of the weight lies; nan without any weight."""
    known = np.isfinite(values) & (weights > 0)
    if not known.any():
        return float("nan")
    order = np.argsort(values[known])
    cumulative = np.cumsum(weights[known][order])
    return float(values[known][order][np.searchsorted(cumulative, fraction * cumulative[-1])])
