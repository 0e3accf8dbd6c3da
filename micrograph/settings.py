"""Read the settings of a program: dataclass default < `--config recipe.yaml` < flags.

A program's settings are one flat, frozen dataclass. A field's default lives there and nowhere else;
its help is the string of `Annotated[type, "help"]`; its flag is the name with dashes. Types: int,
float, str, bool, Path, Literal, `tuple[str, ...]`, and `X | None` (None is written `none`).

    run_dir: Annotated[Path, Positional, "run folder"]                # RUN_DIR, required
    names: Annotated[tuple[str, ...], Positional, "[all]"] = ()       # [NAMES ...]
"""

import argparse
import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from micrograph.cli import ArgumentParser, UserError, program_name
from micrograph.parse_values import convert, is_optional

C = TypeVar("C")


class Positional:
    """Marks a field that is given by its place on the command line, not by a flag.

    A default makes it optional; a tuple takes all that is left. A recipe may give it too.
    """


_CONFIG = "config"  # a program with a field of this name reads the file itself
_RECIPES = "configs"  # folder of the project's own recipes
# In a wheel it is inside this package, in a checkout beside it.
_HOMES = (Path(__file__).parent, Path(__file__).parents[1])


def load_config(
    cls: type[C],
    argv: Sequence[str] | None,
    recipe: Mapping[str, Any] | None = None,
    *,
    prog: str | None = None,
) -> C:
    """Build `cls` from its defaults, an optional YAML recipe and the command line.

    `recipe`: values that a `--config` file overrides. `prog`: the name in the usage line.
    Raises `UserError` for an unknown key, a wrong type or choice, a missing value, or a
    `ValueError` of the dataclass's own `__post_init__`.
    """
    return build_config(cls, {**(recipe or {}), **given_settings(cls, argv, prog=prog)})


def given_settings(
    cls: type[Any], argv: Sequence[str] | None, *, prog: str | None = None
) -> dict[str, Any]:
    """What `--config` and the command line give of the settings of `cls`, not yet converted."""
    parser = _parser(cls, prog or program_name())
    # Intermixed: `RUN --json RUN` names two runs.
    flags, unknown = parser.parse_known_intermixed_args(argv)
    # An absent positional is None, or [] where it takes several.
    given = {name: value for name, value in vars(flags).items() if value not in (None, [])}
    names = [field.name for field in dataclasses.fields(_as_dataclass(cls))]
    if unknown:
        token = next((token for token in unknown if token.startswith("-")), unknown[0])
        raise UserError(_unknown_flag(token, names))
    config_file = None if _CONFIG in names else given.pop(_CONFIG, None)
    return given if config_file is None else read_recipe(Path(config_file)) | given


def load_command(
    commands: Mapping[str, type[C]], argv: Sequence[str] | None, description: str
) -> tuple[str, C]:
    """Read `COMMAND [settings]`: the command's name, and its settings as `load_config` reads them.

    The first line of each dataclass's docstring is its command's help. Raises `UserError` as
    `load_config` does, and for a missing or unknown command.
    """
    name, *rest = sys.argv[1:] if argv is None else argv or [""]
    if name in ("-h", "--help"):
        print(f"usage: {program_name()} COMMAND [options]\n\n{description}\n\ncommands:")
        for command, cls in commands.items():
            print(f"  {command:12} {_summary(cls)}")
        print("\nCOMMAND --help shows a command's settings")
        sys.exit()
    if name not in commands:
        unknown = f"unknown command {name!r}; {nearest_hint(name, commands)}"
        raise UserError(unknown if name else f"no command; one of {', '.join(commands)}")
    return name, load_config(commands[name], rest, prog=f"{program_name()} {name}")


def build_config(
    cls: type[C], values: Mapping[str, Any], ready: Mapping[str, Any] | None = None
) -> C:
    """Build `cls` from plain values (as read from YAML or flags), checking names and types.

    `ready`: values of fields of other types, used unchanged.
    """
    ready = ready or {}
    every = {field.name: field for field in dataclasses.fields(_as_dataclass(cls))}
    fields = {name: field for name, field in every.items() if name not in ready}
    for key in values:
        if key not in fields:
            raise UserError(f"unknown setting {key!r}; {_nearest(key, fields)}")
    hints = typing.get_type_hints(cls, include_extras=True)
    plain_hints = {name: _strip_annotated(hint)[0] for name, hint in hints.items()}
    converted = {key: convert(key, value, plain_hints[key]) for key, value in values.items()}
    missing = [
        name
        for name, field in fields.items()
        if name not in converted
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        flags = ", ".join(
            name.upper() if _is_positional(hints[name]) else _flag(name) for name in missing
        )
        raise UserError(f"missing {flags} (see --help)")
    try:
        return cls(**converted, **ready)
    except ValueError as error:
        raise UserError(str(error)) from error


def find_recipe(path: Path) -> Path:
    """`path` if it exists, else the project's own recipe of that name, else `path` unchanged.

    `configs/launch/micronet-76.yaml` means the same in a checkout and, with the wheel, anywhere.
    """
    ours = (home / path for home in _HOMES if path.parts[:1] == (_RECIPES,))
    return next((place for place in (path, *ours) if place.is_file()), path)


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the YAML recipe that `find_recipe` finds: a mapping of setting names to values."""
    try:
        content = yaml.safe_load(find_recipe(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        like = nearest(str(path), _project_recipes())
        raise UserError(f"no recipe {path}" + (f"; nearest is {like!r}" if like else "")) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read recipe {path}: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"recipe {path} must map setting names to values, one `name: value` a line")
    return content


def dump_config(config: Any) -> str:
    """The settings as YAML; `--config` reads them back to an equal config."""
    return yaml.safe_dump(to_json(config), sort_keys=False, allow_unicode=True)


def to_json(config: Any) -> dict[str, Any]:
    """The settings as JSON-able values: paths become strings, tuples become lists."""
    return {key: _to_json(value) for key, value in dataclasses.asdict(config).items()}


def _project_recipes() -> list[str]:
    """The project's own recipes, as they are named on a command line."""
    return [
        str(path.relative_to(home))
        for home in _HOMES
        for path in (home / _RECIPES).glob("*/*.yaml")
    ]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most similar to `name`, or None when none is close."""
    matches = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest one, or all if none is close."""
    like = nearest(name, known)
    return f"nearest is {like!r}" if like else f"known are {', '.join(known) or 'none'}"


def check_keys(where: str, content: Any, known: Iterable[str]) -> None:
    """Raise `UserError` if `content`, read from `where`, is not a mapping of `known` keys."""
    if not isinstance(content, Mapping):
        raise UserError(f"{where} must map names to values, not {content!r}")
    for key in content:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}; {nearest_hint(str(key), known)}")


def _to_json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_to_json(item) for item in value] if isinstance(value, tuple) else value


def _as_dataclass(cls: type[Any]) -> Any:
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not a dataclass")
    return cls


def _parser(cls: type[Any], prog: str) -> argparse.ArgumentParser:
    fields = dataclasses.fields(_as_dataclass(cls))
    hints = typing.get_type_hints(cls, include_extras=True)
    places = [_place(field, hints[field.name]) for field in fields]
    parser = ArgumentParser(
        prog=prog,
        usage=" ".join(["%(prog)s", *filter(None, places), "[options]"]),
        description=_summary(cls),
        allow_abbrev=False,  # an abbreviation would change meaning when a setting is added
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if _CONFIG not in hints:
        parser.add_argument("--config", metavar="FILE", help="YAML recipe; flags win over it")
    help_ = "show the traceback behind a one-line error"  # `program` takes it, this is for --help
    parser.add_argument("--debug", action="store_true", default=None, help=help_)
    for field in fields:
        _add_setting(parser, field, hints[field.name])
    return parser


def _summary(cls: type[Any]) -> str | None:
    doc = (cls.__doc__ or "").strip().splitlines()
    return doc[0] if doc else None


def _place(field: Any, hint: Any) -> str:
    """A positional field in the usage line; "" for a flag."""
    if not _is_positional(hint):
        return ""
    name = field.name.upper()
    if typing.get_origin(_strip_annotated(hint)[0]) is tuple:
        name += " ..."
    return name if field.default is dataclasses.MISSING else f"[{name}]"


def _is_positional(hint: Any) -> bool:
    return Positional in typing.get_args(hint)[1:]


def _add_setting(parser: argparse.ArgumentParser, field: Any, hint: Any) -> None:
    base, notes = _strip_annotated(hint)
    text = notes.replace("%", "%%")
    if field.default is dataclasses.MISSING:
        text += " (required)"
    elif field.default not in (None, ()):  # their meaning is in the help text
        text += f" [{_format(field.default)}]".replace("%", "%%")
    if _is_positional(hint):
        # A recipe may give even a required one: what is missing is found by `build_config`.
        several = typing.get_origin(base) is tuple
        parser.add_argument(
            field.name, nargs="*" if several else "?", metavar=field.name.upper(), help=text
        )
    elif base is bool:
        parser.add_argument(
            _flag(field.name), action=argparse.BooleanOptionalAction, default=None, help=text
        )
    elif typing.get_origin(base) is tuple:
        (item, *_) = typing.get_args(base)
        metavar = _metavar(item) if typing.get_origin(item) is Literal else "VALUE"
        parser.add_argument(_flag(field.name), nargs="+", metavar=metavar, default=None, help=text)
    else:
        parser.add_argument(_flag(field.name), metavar=_metavar(base), default=None, help=text)


def _strip_annotated(hint: Any) -> tuple[Any, str]:
    if typing.get_origin(hint) is typing.Annotated:
        base, *notes = typing.get_args(hint)
        return base, " ".join(note for note in notes if isinstance(note, str))
    return hint, ""


def _metavar(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "{" + ",".join(str(choice) for choice in typing.get_args(hint)) + "}"
    inner = [part for part in typing.get_args(hint) if part is not types.NoneType]
    if inner and is_optional(hint):
        return _metavar(inner[0])
    return {int: "N", float: "X", Path: "PATH"}.get(hint, "NAME")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _format(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(str(item) for item in value) or "none"
    return str(value)


def _unknown_flag(token: str, names: Sequence[str]) -> str:
    if not token.startswith("-"):
        return f"unexpected argument {token!r} (see --help)"
    key = token.lstrip("-").split("=")[0].replace("-", "_")
    return f"unknown flag {token.split('=')[0]!r}; {_nearest(key, names, flags=True)}"


def _nearest(key: str, names: Iterable[str], *, flags: bool = False) -> str:
    best = nearest(key, names)
    if best is None:
        return "see --help for all settings"
    return f"nearest is {_flag(best) if flags else best!r}"
