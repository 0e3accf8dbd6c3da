"""Propose the classes of a set of masks from their values. Imports no torch.

Only the indices 0, 1, 2 … are used without asking; any other mapping must be confirmed by the user.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from downstream.labels.classes import REST, MaskClass, Rgb, format_class, format_value
from downstream.labels.masks import VIVID, RawMask, count_colours
from micrograph.cli import UserError

MAX_CLASSES = 32  # more values are grey levels or smoothed borders
_MIN_FRACTION = 1e-4  # of all pixels, for a colour of an overlay to be a class
_NAMES: dict[Rgb, str] = {
    (0, 0, 0): "black",
    (255, 255, 255): "white",
    (255, 0, 0): "red",
    (0, 255, 0): "green",
    (0, 0, 255): "blue",
    (255, 255, 0): "yellow",
    (0, 255, 255): "cyan",
    (255, 0, 255): "magenta",
}


@dataclass(frozen=True, slots=True)
class ClassProposal:
    """A mapping of mask values; `certain` if it may be used without asking."""

    classes: tuple[MaskClass, ...]
    certain: bool
    found: str  # the mask values, in words

    @property
    def flags(self) -> str:
        """The command-line flag that confirms the proposal."""
        quoted = (f"'{spec}'" if "#" in spec else spec for spec in map(format_class, self.classes))
        return "--classes " + " ".join(quoted)


def propose_classes(masks: Iterable[RawMask]) -> ClassProposal:
    """Propose one mapping for all masks of a set.

    Raises `UserError` if no mapping is possible: smoothed borders, a single value, or contradicting
    palettes.
    """
    colours: Counter[Rgb] = Counter()
    indices: Counter[int] = Counter()
    palette: dict[int, tuple[Rgb, str]] = {}
    for mask in masks:
        if mask.is_colour:
            colours.update(count_colours(mask.values.astype(np.uint8)))
            continue
        values, counts = np.unique(mask.values, return_counts=True)
        found = {int(value): int(count) for value, count in zip(values, counts, strict=True)}
        indices.update(found)
        _merge_palette(palette, mask, found)
    if colours and all(red == green == blue for red, green, blue in colours):
        for (grey, _, _), count in colours.items():  # grey, stored as RGB
            indices[grey] += count
        colours.clear()
    if colours and indices:
        raise UserError(
            f"some masks contain colours ({_format_colours(list(colours))}), others indices "
            f"({', '.join(map(str, sorted(indices)[:4]))}); convert them to one kind"
        )
    return _propose_from_colours(colours) if colours else _propose_from_indices(indices)


def _propose_from_indices(counts: Counter[int]) -> ClassProposal:
    values = sorted(counts)
    if len(values) < 2:
        raise UserError(
            f"all masks contain only {', '.join(map(str, values))}: at least two classes are needed"
        )
    if len(values) > MAX_CLASSES:
        total = sum(counts.values())
        first, second = counts.most_common(2)
        fraction = (first[1] + second[1]) / total
        if fraction > 0.5:
            raise UserError(
                f"the masks contain {len(values)} values, {fraction:.1%} of the pixels {first[0]} "
                f"and {second[0]}: borders were smoothed or compressed; export them without "
                "smoothing, as PNG"
            )
        raise UserError(f"the masks contain {len(values)} values: these are grey images, not masks")
    shown = ", ".join(map(str, values[:8]))
    if values == list(range(len(values))):
        classes = tuple(MaskClass(f"class{value}", value) for value in values)
        return ClassProposal(classes, True, f"indices {shown}")
    names = ["background", "foreground"]
    if len(values) > 2:
        names = ["background", *(f"class{number}" for number in range(1, len(values)))]
    classes = tuple(MaskClass(name, value) for name, value in zip(names, values, strict=True))
    return ClassProposal(classes, False, f"the values {shown}, not 0, 1, 2 …")


def _propose_from_colours(counts: Counter[Rgb]) -> ClassProposal:
    if len(counts) <= MAX_CLASSES:
        ordered = sorted(counts)  # black first, the background of most colour maps
        classes = tuple(MaskClass(_name(colour), colour) for colour in ordered)
        return ClassProposal(classes, False, f"colours {_format_colours(ordered)}")
    total = sum(counts.values())
    strong = Counter({c: n for c, n in counts.items() if max(c) - min(c) > VIVID})
    chosen = [c for c, n in strong.most_common() if n >= _MIN_FRACTION * total]
    stray = sum(n for c, n in strong.items() if c not in chosen)
    if not chosen:
        raise UserError(
            f"the masks contain {len(counts)} colours, none of them vivid: these are not masks"
        )
    if len(chosen) > MAX_CLASSES or stray:
        raise UserError(
            f"the masks contain {len(strong)} vivid colours, mostly {_format_colours(chosen)}: "
            "borders were smoothed or compressed; export them without smoothing, as PNG"
        )
    classes = (MaskClass(REST, None), *(MaskClass(_name(c), c) for c in sorted(chosen)))
    return ClassProposal(
        classes, False, f"colours {_format_colours(chosen)} painted over a grey image"
    )


def _merge_palette(
    palette: dict[int, tuple[Rgb, str]], mask: RawMask, found: Iterable[int]
) -> None:
    """Raise `UserError` if an index has different colours in different palettes."""
    if mask.palette is None:
        return
    for index in found:
        if index >= len(mask.palette):
            continue
        red, green, blue = mask.palette[index].tolist()
        colour, name = palette.setdefault(index, ((red, green, blue), mask.name))
        if colour != (red, green, blue):
            raise UserError(
                f"index {index} is {format_value(colour)} in the palette of {name} and "
                f"{format_value((red, green, blue))} in that of {mask.name}: use colours instead, "
                "such as --classes 'NAME=#rrggbb' …"
            )


def _name(colour: Rgb) -> str:
    return _NAMES.get(colour, "c" + bytes(colour).hex())


def _format_colours(colours: list[Rgb]) -> str:
    return ", ".join(format_value(colour) for colour in colours[:6])
