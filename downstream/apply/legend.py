"""What stands in a predicted mask for each class: a value, and a colour that viewers show.

A mask that was predicted can be corrected by hand and trained on: it means the same by the same
`classes`. Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from downstream.seg.classes import MaskClass, Rgb, spell_class
from downstream.seg.pictures import class_colour
from pretrain.atomic import write_atomically
from shards.cli import UserError
from shards.images import Pixels

CLASSES_NAME = "classes.yaml"


@dataclass(frozen=True, slots=True)
class Legend:
    """The classes in the order of the network's channels."""

    classes: tuple[MaskClass, ...]  # each with an index or each with a colour, none with "rest"
    values: Pixels  # (C,) uint8: what the mask holds
    palette: Pixels  # (256, 3) uint8: what is shown for it

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.classes)


def legend_of(classes: Sequence[MaskClass]) -> Legend:
    """Give "rest" a value of its own: 0, or black, where no class has it.

    Raises `UserError` for an index above 255.
    """
    if any(isinstance(entry.value, tuple) for entry in classes):
        return _of_colours(classes)
    taken = {entry.value for entry in classes}
    rest = next(value for value in range(len(taken) + 1) if value not in taken)
    values = [rest if entry.value is None else entry.value for entry in classes]
    indices = [value for value in values if isinstance(value, int)]
    if max(indices) > 255:
        raise UserError(f"class value {max(indices)} does not fit into a mask of 8 bits")
    palette = np.zeros((256, 3), np.uint8)
    for position, value in enumerate(indices):
        palette[value] = class_colour(position)
    named = tuple(MaskClass(c.name, value) for c, value in zip(classes, indices, strict=True))
    return Legend(named, np.array(indices, np.uint8), palette)


def write_classes(folder: Path, legend: Legend) -> None:
    """Write `classes.yaml`, which downstream.measure finds and other programs take as a recipe."""
    content = yaml.safe_dump({"classes": [spell_class(c) for c in legend.classes]})
    head = "# What the values of these masks mean.\n"
    write_atomically(folder / CLASSES_NAME, (head + content).encode())


def _of_colours(classes: Sequence[MaskClass]) -> Legend:
    taken = {entry.value for entry in classes}
    free: list[Rgb] = [(0, 0, 0), (255, 255, 255), (128, 128, 128)]
    rest = next(colour for colour in free if colour not in taken)
    colours = [entry.value if isinstance(entry.value, tuple) else rest for entry in classes]
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours)] = colours
    named = tuple(MaskClass(c.name, colour) for c, colour in zip(classes, colours, strict=True))
    return Legend(named, np.arange(len(colours), dtype=np.uint8), palette)
