"""The value and the colour of each class in a predicted mask. Imports no torch.

A predicted mask can be corrected by hand and trained on with the same `classes`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from downstream.labels.classes import MaskClass, Rgb, format_class
from downstream.scoring.overlays import class_colour
from micrograph.atomic import write_atomically
from micrograph.cli import UserError
from shards.images.decode import Pixels

CLASSES_NAME = "classes.yaml"


@dataclass(frozen=True, slots=True)
class Legend:
    """The classes in the order of the network's output channels."""

    classes: tuple[MaskClass, ...]  # all with an index or all with a colour; none is "rest"
    values: Pixels  # (C,) uint8: mask value of each class
    palette: Pixels  # (256, 3) uint8: displayed colour of each mask value

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.classes)


def build_legend(classes: Sequence[MaskClass]) -> Legend:
    """Assign a free value to "rest": the lowest free index, or black if it is free.

    Raises `UserError` for an index above 255.
    """
    if any(isinstance(entry.value, tuple) for entry in classes):
        return _build_from_colours(classes)
    taken = {entry.value for entry in classes}
    rest = next(value for value in range(len(taken) + 1) if value not in taken)
    values = [rest if entry.value is None else entry.value for entry in classes]
    indices = [value for value in values if isinstance(value, int)]
    if max(indices) > 255:
        raise UserError(f"class value {max(indices)} does not fit into an 8-bit mask")
    palette = np.zeros((256, 3), np.uint8)
    for position, value in enumerate(indices):
        palette[value] = class_colour(position)
    named = tuple(MaskClass(c.name, value) for c, value in zip(classes, indices, strict=True))
    return Legend(named, np.array(indices, np.uint8), palette)


def write_classes(folder: Path, legend: Legend) -> None:
    """Write `classes.yaml`, found by downstream.measure and accepted as a recipe elsewhere."""
    content = yaml.safe_dump({"classes": [format_class(c) for c in legend.classes]})
    head = "# What the values of these masks mean.\n"
    write_atomically(folder / CLASSES_NAME, (head + content).encode())


def _build_from_colours(classes: Sequence[MaskClass]) -> Legend:
    taken = {entry.value for entry in classes}
    free: list[Rgb] = [(0, 0, 0), (255, 255, 255), (128, 128, 128)]
    rest = next(colour for colour in free if colour not in taken)
    colours = [entry.value if isinstance(entry.value, tuple) else rest for entry in classes]
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours)] = colours
    named = tuple(MaskClass(c.name, colour) for c, colour in zip(classes, colours, strict=True))
    return Legend(named, np.arange(len(colours), dtype=np.uint8), palette)
