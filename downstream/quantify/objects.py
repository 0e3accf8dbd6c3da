"""The connected regions of a class: size, shape, and what each counts for. Imports no torch.

A large region is more likely to be cut by the image's border than a small one, so leaving out what
is cut makes sizes too small. Each region inside therefore counts

    W H / ((W - w)(H - h))        Miles 1974; Lantuéjoul 1980; Serra 1982, ch. VIII

where w x h is the box around it and W x H the image: one over its chance not to be cut. Number per
area, and all means of sizes, are then those of an endless image.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skimage.measure import label, regionprops_table

from downstream.quantify.config import Border

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
class Objects:
    """Regions of one image, one value each; lengths in pixels."""

    y: Column  # of the centre
    x: Column
    area: Column  # pixels
    diameter: Column  # of the circle of the same area
    major: Column  # axes of the ellipse of the same second moments
    minor: Column
    cut: npt.NDArray[np.bool_]  # by the image's border
    weight: Column  # what it counts for in numbers and means; 0: it does not

    @property
    def aspect(self) -> Column:
        """Major over minor axis, 1 for a circle; nan for a line of pixels."""
        with np.errstate(divide="ignore", invalid="ignore"):
            aspect: Column = np.where(self.minor > 0, self.major / self.minor, np.nan)
        return aspect


def find_objects(region: npt.NDArray[np.bool_], min_area: int, border: Border) -> Objects:
    """Regions connected by sides or corners, of at least `min_area` pixels."""
    labels = label(region, connectivity=2)
    table = regionprops_table(labels, properties=_PROPERTIES)
    kept = table["area"] >= min_area
    found = {name: np.asarray(column, float)[kept] for name, column in table.items()}
    top, left, bottom, right = (found[f"bbox-{i}"] for i in range(4))
    height, width = region.shape
    cut = (top == 0) | (left == 0) | (bottom == height) | (right == width)
    weight = np.ones(len(cut))
    if border == "correct":
        room = (height - (bottom - top)) * (width - (right - left))
        weight = np.where(cut, 0.0, height * width / np.maximum(room, 1))
    return Objects(
        y=found["centroid-0"],
        x=found["centroid-1"],
        area=found["area"],
        diameter=found["equivalent_diameter_area"],
        major=found["axis_major_length"],
        minor=found["axis_minor_length"],
        cut=cut,
        weight=weight,
    )


def weighted_mean(values: Column, weights: Column) -> float:
    """The mean of what counts; nan where nothing does."""
    known = np.isfinite(values) & (weights > 0)
    return float(np.average(values[known], weights=weights[known])) if known.any() else float("nan")


def weighted_quantile(values: Column, weights: Column, share: float) -> float:
    """The value below which `share` of the weight lies; nan where nothing counts."""
    known = np.isfinite(values) & (weights > 0)
    if not known.any():
        return float("nan")
    order = np.argsort(values[known])
    reached = np.cumsum(weights[known][order])
    return float(values[known][order][np.searchsorted(reached, share * reached[-1])])
