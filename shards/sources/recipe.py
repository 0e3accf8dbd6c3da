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

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from micrograph.cli import UserError
from micrograph.settings import build_config, check_keys, read_recipe

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

    def __post_init__(self) -> None:
        if (self.layout == "single") != (self.label is not None):
            raise ValueError("`layout: single` and `label` go together")
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be a positive number of nm per pixel, not {self.scale}")
        if self.specimen is not None:
            _check_pattern(self.specimen)


@dataclass(frozen=True, slots=True)
class Corpus:
    """A recipe, read and checked."""

    name: str
    sources: tuple[SourceSpec, ...]
    settings: Mapping[str, Any]


def read_corpus(path: Path) -> Corpus:
    """Read and check a corpus recipe. Raises `UserError` naming the source and key at fault."""
    content = read_recipe(path)
    check_keys(str(path), content, ("name", "settings", "sources"))
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


def plain_source(path: str, **settings: str | None) -> SourceSpec:
    """The source that `--source PATH` means. `settings`: specimen, licence, restriction."""
    ready = {"name": "", "path": (path,), "layout": _layout([path])}
    return build_config(SourceSpec, settings, ready)


def _source(item: Any, where: str) -> SourceSpec:
    check_keys(where, item, [field.name for field in fields(SourceSpec)])
    given = {key: value for key, value in item.items() if value is not None}
    name, paths = str(given.get("name", "")), given.get("path")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise UserError(f"{where}: name must be of a-z, 0-9, _ and -, not {name!r}")
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(paths, list) or not paths or not all(isinstance(p, str) for p in paths):
        raise UserError(f"{where}: path must be a path or URL, or a list of them")
    classes, columns = _names(given, "classes", where), _names(given, "columns", where)
    check_keys(f"{where}, columns", columns, DEFAULT_COLUMNS)
    ready = {"classes": classes, "columns": DEFAULT_COLUMNS | columns}
    values = {"layout": _layout(paths), **given, "path": paths}
    try:
        return build_config(SourceSpec, {k: v for k, v in values.items() if k not in ready}, ready)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _layout(paths: Iterable[str]) -> Layout:
    """Of tables, which are known by their suffix, or of folders."""
    return "table" if all(path.lower().endswith(TABLE_SUFFIXES) for path in paths) else "folders"


def _names(item: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = item.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(v, str | None) for v in value.values()):
        raise UserError(f"{where}: {key} must map names to names")
    return {str(name): content for name, content in value.items()}


def _check_pattern(pattern: str) -> None:
    try:
        captures = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"specimen {pattern!r} is not a regular expression: {error}") from error
    if captures == 0:
        raise ValueError(
            f"specimen {pattern!r} must capture the specimen's name, as in '(specimen_[0-9]+)_'"
        )
