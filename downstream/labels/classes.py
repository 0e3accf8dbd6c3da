"""Map mask values to classes, by index, by colour, or as the rest. Imports no torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from micrograph.cli import UserError

REST = "rest"
Rgb = tuple[int, int, int]
MicroIouClasses = Literal["all", "foreground"]  # foreground: all but the first
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True, slots=True)
class MaskClass:
    """A class and its mask value: an index, a colour, or None for all remaining pixels."""

    name: str
    value: int | Rgb | None


def parse_classes(specs: Sequence[str]) -> tuple[MaskClass, ...]:
    """Parse `NAME=INDEX`, `NAME=#rrggbb` and `NAME=rest`. Raises `UserError`."""
    classes = []
    for spec in specs:
        name, _, value = spec.partition("=")
        if value == REST:
            classes.append(MaskClass(name, None))
        elif value.isdecimal():
            classes.append(MaskClass(name, int(value)))
        elif _COLOUR.fullmatch(value):
            red, green, blue = bytes.fromhex(value[1:])
            classes.append(MaskClass(name, (red, green, blue)))
        else:
            raise UserError(f"invalid class {spec!r}; use NAME=INDEX, NAME=#rrggbb or NAME={REST}")
    names = [c.name for c in classes]
    if len(set(names)) < len(names) or len(classes) < 2 or "" in names:
        raise UserError("classes needs at least two different names, including the background")
    if len({c.value for c in classes}) < len(classes):
        raise UserError(f"two classes have the same mask value in: {' '.join(specs)}")
    if len({type(c.value) for c in classes if c.value is not None}) > 1:
        raise UserError(f"classes mixes indices and colours: {' '.join(specs)}")
    return tuple(classes)


def format_class(entry: MaskClass) -> str:
    """The form that `parse_classes` reads."""
    return f"{entry.name}={format_value(entry.value)}"


def format_value(value: int | Rgb | None) -> str:
    """An index, `#rrggbb`, or `rest`."""
    if value is None:
        return REST
    return "#" + bytes(value).hex() if isinstance(value, tuple) else str(value)
