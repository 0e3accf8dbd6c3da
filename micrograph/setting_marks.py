"""Marks of a setting, on its field: `Annotated[Path, "help", Mark.LOCATION]`."""

import dataclasses
import typing
from enum import Flag, auto
from typing import Any

from micrograph.settings import to_json


class Mark(Flag):
    """How a setting differs from those that decide a result and may be published."""

    PRIVATE = auto()  # names something of its user's: left out of what is published
    FREE_ON_RESUME = auto()  # does not change what is computed: a resumed run may use another
    LENGTH = auto()  # bounds how long a run lasts: free on resume until the run has finished
    LOCATION = PRIVATE | FREE_ON_RESUME  # a path or URL; contents are compared by their hash


def marked(cls: type[Any], mark: Mark) -> frozenset[str]:
    """Names of the fields of a settings dataclass whose marks include `mark`."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return frozenset(
        field.name for field in dataclasses.fields(cls) if mark in _marks(hints[field.name])
    )


def plain_without(config: Any, mark: Mark) -> dict[str, Any]:
    """The settings as JSON-able values, without the fields marked as `mark`."""
    left_out = marked(type(config), mark)
    return {name: value for name, value in to_json(config).items() if name not in left_out}


def _marks(hint: Any) -> Mark:
    found = Mark(0)
    if typing.get_origin(hint) is typing.Annotated:
        for note in typing.get_args(hint)[1:]:
            found |= note if isinstance(note, Mark) else Mark(0)
    return found
