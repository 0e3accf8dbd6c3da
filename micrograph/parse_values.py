"""Convert a value from YAML or a flag to the type of its field."""

import types
import typing
from enum import EnumType
from pathlib import Path
from typing import Any, Literal, Union

from micrograph.cli import UserError

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}


def convert(key: str, value: Any, hint: Any) -> Any:
    """Convert a value from YAML or a flag to the field's type, or raise naming key and value."""
    if is_optional(hint):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        (inner,) = (part for part in typing.get_args(hint) if part is not types.NoneType)
        return convert(key, value, inner)
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        for choice in choices:
            if type(value) is not bool and str(value) == str(choice):
                return choice
        raise _wrong(key, value, "one of " + ", ".join(str(choice) for choice in choices))
    if isinstance(hint, EnumType):
        return _to_member(key, value, hint)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong(key, value, "a list")
        item = typing.get_args(hint)[0]
        return tuple(convert(key, part, item) for part in value)
    return _SCALARS[hint](key, value)


def is_optional(hint: Any) -> bool:
    """Whether the type is `X | None`."""
    return typing.get_origin(hint) in (Union, types.UnionType)


def _to_member(key: str, value: Any, members: Any) -> Any:
    try:
        return members(value)
    except ValueError:
        raise _wrong(key, value, "one of " + ", ".join(members)) from None


def _wrong(key: str, value: Any, wanted: str) -> UserError:
    return UserError(f"setting {key!r} must be {wanted}, not {value!r}")


def _to_bool(key: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise _wrong(key, value, "true or false")


def _to_int(key: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    raise _wrong(key, value, "a whole number")


def _to_float(key: str, value: Any) -> float:
    # YAML 1.1 reads `1e-4` as a string, so numeric strings count as numbers from a file too.
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise _wrong(key, value, "a number")


def _to_str(key: str, value: Any) -> str:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise _wrong(key, value, "text")


def _to_path(key: str, value: Any) -> Path:
    if isinstance(value, (str, Path)) and str(value):
        return Path(value)
    raise _wrong(key, value, "a path")


_SCALARS: dict[Any, typing.Callable[[str, Any], Any]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_str,
    Path: _to_path,
}
