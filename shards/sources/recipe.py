"""A corpus recipe: the sources of a corpus, and what each says about its images.

    name: nanosem
    settings: {split: share}         # optional: settings of shards.write; flags win over them
    sources:
      - name: nffa                   # part of every sample's identity
        path: data/raw/nffa/*.tar    # folder, archive, table (.csv, .parquet), glob, list, or URL
        classes: {Tips: tips, Misc: null}      # rename; null drops a class
        licence: CC-BY-4.0

`configs/corpora/` holds the recipes of the papers' corpora.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from micrograph.cli import UserError
from micrograph.settings import nearest, read_recipe

Layout = Literal["folders", "table", "single"]

DEFAULT_COLUMNS = {"path": "path", "label": "label", "specimen": "specimen", "scale": "scale"}
TABLE_SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSpec:
    """One source of a corpus: where it is, and what holds for all its images."""

    name: str  # "" for the only source of `--source`
    path: tuple[str, ...]
    layout: Layout = "folders"
    label: str | None = None  # layout `single`: the class of all images
    classes: Mapping[str, str | None] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_COLUMNS))
    specimen: str | None = None  # regular expression; images with equal captures stay together
    scale: float | None = None  # nm per pixel
    licence: str | None = None
    restriction: str | None = None
    citation: str | None = None
    dataset: str | None = None  # its name in configs/corpora/datasets.yaml, for shards.fetch


@dataclass(frozen=True, slots=True)
class Corpus:
    """A recipe, read and checked."""

    name: str
    sources: tuple[SourceSpec, ...]
    settings: Mapping[str, Any]


def read_corpus(path: Path) -> Corpus:
    """Read and check a corpus recipe. Raises `UserError` naming the source and key at fault."""
    content = read_recipe(path)
    _check_keys(content, ("name", "settings", "sources"), str(path))
    listed = content.get("sources")
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{path} lists no sources; see configs/corpora/ for examples")
    sources = tuple(_source(item, f"{path}, source {n}") for n, item in enumerate(listed, 1))
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path} has two sources named {name!r}; their samples would collide")
    settings = content.get("settings") or {}
    if not isinstance(settings, dict):
        raise UserError(f"{path}: settings must map names of settings to values")
    return Corpus(str(content.get("name") or path.stem), sources, settings)


def plain_source(
    path: str,
    *,
    specimen: str | None = None,
    licence: str | None = None,
    restriction: str | None = None,
) -> SourceSpec:
    """The source that `--source PATH` means; a table is known by its suffix."""
    table = path.lower().endswith(TABLE_SUFFIXES)
    return SourceSpec(
        name="",
        path=(path,),
        layout="table" if table else "folders",
        specimen=_pattern(specimen, "--specimen-pattern"),
        licence=licence,
        restriction=restriction,
    )


def _source(item: Any, where: str) -> SourceSpec:
    if not isinstance(item, dict):
        raise UserError(f"{where} must map keys such as name and path to values")
    known = tuple(field.name for field in fields(SourceSpec))
    _check_keys(item, known, where)
    name = str(item.get("name", ""))
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise UserError(f"{where}: name must be of a-z, 0-9, _ and -, not {name!r}")
    paths = item.get("path")
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(paths, list) or not paths or not all(isinstance(p, str) for p in paths):
        raise UserError(f"{where}: path must be a path or URL, or a list of them")
    table = all(path.lower().endswith(TABLE_SUFFIXES) for path in paths)
    layout: Any = item.get("layout") or ("table" if table else "folders")
    if layout not in ("folders", "table", "single"):
        raise UserError(f"{where}: layout must be folders, table or single, not {layout!r}")
    if (layout == "single") != (item.get("label") is not None):
        raise UserError(f"{where}: `layout: single` and `label` go together")
    columns = _mapping(item, "columns", where)
    _check_keys(columns, tuple(DEFAULT_COLUMNS), f"{where}, columns")
    return SourceSpec(
        name=name,
        path=tuple(paths),
        layout=layout,
        label=item.get("label"),
        classes=_mapping(item, "classes", where),
        columns=DEFAULT_COLUMNS | columns,
        specimen=_pattern(item.get("specimen"), f"{where}: specimen"),
        scale=_scale(item.get("scale"), where),
        **{key: _text(item, key, where) for key in _TEXTS},
    )


_TEXTS = ("licence", "restriction", "citation", "dataset")


def _check_keys(content: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in known:
            like = nearest(str(key), known)
            raise UserError(
                f"{where}: unknown key {key!r}; "
                + (f"nearest is {like!r}" if like else f"known are {', '.join(known)}")
            )


def _mapping(item: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = item.get(key) or {}
    if not isinstance(value, dict) or not all(
        content is None or isinstance(content, str) for content in value.values()
    ):
        raise UserError(f"{where}: {key} must map names to names")
    return {str(name): content for name, content in value.items()}


def _pattern(pattern: Any, where: str) -> str | None:
    if pattern is None:
        return None
    try:
        captures = re.compile(str(pattern)).groups
    except re.error as error:
        raise UserError(f"{where} is not a regular expression: {error}") from error
    if captures == 0:
        raise UserError(f"{where} must capture the specimen's name, as in '(specimen_[0-9]+)_'")
    return str(pattern)


def _scale(value: Any, where: str) -> float | None:
    if value is None:
        return None
    try:
        scale = float(value)
    except (TypeError, ValueError):
        scale = 0.0
    if isinstance(value, bool) or not 0 < scale < float("inf"):
        raise UserError(f"{where}: scale must be a positive number of nm per pixel, not {value!r}")
    return scale


def _text(item: Mapping[str, Any], key: str, where: str) -> str | None:
    value = item.get(key)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise UserError(f"{where}: {key} must be text or be left out, not {value!r}")
    return value
