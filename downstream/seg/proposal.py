"""What the values of a set of masks seem to mean, proposed for the user to confirm. No torch.

Indices 0, 1, 2 … speak for themselves; nothing else is used before the user has said it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from downstream.seg.classes import REST, MaskClass, Rgb, spell_class, spell_value
from downstream.seg.masks import VIVID, RawMask, count_colours
from shards.cli import UserError

MAX_CLASSES = 32  # more values are grey levels or smoothed borders, not classes
_LEAST_SHARE = 1e-4  # of all pixels, for a colour that is a class of an overlay
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
class Proposal:
    """A mapping of mask values; `certain` when it may be used without asking."""

    classes: tuple[MaskClass, ...]
    certain: bool
    found: str  # what the masks hold, in words

    @property
    def flags(self) -> str:
        """As the user passes it back."""
        quoted = (f"'{spec}'" if "#" in spec else spec for spec in map(spell_class, self.classes))
        return "--classes " + " ".join(quoted)


def propose_classes(masks: Iterable[RawMask]) -> Proposal:
    """Propose what the masks of a set mean, all of them together.

    Raises `UserError` where no mapping could be right: smoothed borders, one value only, palettes
    that contradict each other.
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
        _join_palette(palette, mask, found)
    if colours and all(red == green == blue for red, green, blue in colours):
        for (grey, _, _), count in colours.items():  # grey in three channels
            indices[grey] += count
        colours.clear()
    if colours and indices:
        raise UserError(
            f"some masks are coloured ({_spell(list(colours))}) and some hold indices "
            f"({', '.join(map(str, sorted(indices)[:4]))}); make them of one kind"
        )
    return _of_colours(colours) if colours else _of_indices(indices)


def _of_indices(counts: Counter[int]) -> Proposal:
    values = sorted(counts)
    if len(values) < 2:
        raise UserError(f"all masks hold only {', '.join(map(str, values))}: there is no class")
    if len(values) > MAX_CLASSES:
        total = sum(counts.values())
        first, second = counts.most_common(2)
        share = (first[1] + second[1]) / total
        if share > 0.5:
            raise UserError(
                f"the masks hold {len(values)} values, {share:.1%} of the pixels {first[0]} and "
                f"{second[0]}: borders were smoothed or compressed; export them without smoothing, "
                "as PNG"
            )
        raise UserError(f"the masks hold {len(values)} values: grey images, not masks")
    shown = ", ".join(map(str, values[:8]))
    if values == list(range(len(values))):
        classes = tuple(MaskClass(f"class{value}", value) for value in values)
        return Proposal(classes, True, f"indices {shown}")
    names = ["background", "foreground"]
    if len(values) > 2:
        names = ["background", *(f"class{number}" for number in range(1, len(values)))]
    classes = tuple(MaskClass(name, value) for name, value in zip(names, values, strict=True))
    return Proposal(classes, False, f"the values {shown}, not 0, 1, 2 …")


def _of_colours(counts: Counter[Rgb]) -> Proposal:
    if len(counts) <= MAX_CLASSES:
        ordered = sorted(counts)  # black first: it is the background in most colour maps
        classes = tuple(MaskClass(_name(colour), colour) for colour in ordered)
        return Proposal(classes, False, f"colours {_spell(ordered)}")
    total = sum(counts.values())
    strong = Counter({c: n for c, n in counts.items() if max(c) - min(c) > VIVID})
    chosen = [c for c, n in strong.most_common() if n >= _LEAST_SHARE * total]
    stray = sum(n for c, n in strong.items() if c not in chosen)
    if not chosen:
        raise UserError(f"the masks hold {len(counts)} colours, none of them vivid: no masks")
    if len(chosen) > MAX_CLASSES or stray:
        raise UserError(
            f"the masks hold {len(strong)} vivid colours, mostly {_spell(chosen)}: borders were "
            "smoothed or compressed; export them without smoothing, as PNG"
        )
    classes = (MaskClass(REST, None), *(MaskClass(_name(c), c) for c in sorted(chosen)))
    return Proposal(classes, False, f"colours {_spell(chosen)} painted over a grey image")


def _join_palette(palette: dict[int, tuple[Rgb, str]], mask: RawMask, found: Iterable[int]) -> None:
    """One index must have one colour in all palettes, else the indices mean nothing."""
    if mask.palette is None:
        return
    for index in found:
        if index >= len(mask.palette):
            continue
        red, green, blue = mask.palette[index].tolist()
        colour, name = palette.setdefault(index, ((red, green, blue), mask.name))
        if colour != (red, green, blue):
            raise UserError(
                f"index {index} is {spell_value(colour)} in the palette of {name} and "
                f"{spell_value((red, green, blue))} in that of {mask.name}: name colours instead, "
                "such as --classes 'NAME=#rrggbb' …"
            )


def _name(colour: Rgb) -> str:
    return _NAMES.get(colour, "c" + bytes(colour).hex())


def _spell(colours: list[Rgb]) -> str:
    return ", ".join(spell_value(colour) for colour in colours[:6])
