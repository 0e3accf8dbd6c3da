"""List the files of a corpus: every file of every source, with its class, in a fixed order."""

import csv
import glob
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from micrograph.cli import UserError, warn
from micrograph.remote_files import (
    Entry,
    is_archive,
    is_url,
    natural_key,
    open_location,
    open_store,
)
from shards.sources.recipe import DEFAULT_COLUMNS, TABLE_SUFFIXES, SourceSpec

# Suffixes that Pillow decodes and that micrographs come in. A file with another suffix is rejected
# by name, unread: corpora hold notes, tables and vendors' raw files beside their images.
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file offered as a micrograph."""

    location: str  # of its store, see `micrograph.remote_files`
    entry: Entry
    name: str  # unique within its source: what provenance and identity are made of
    label: int
    specimen: str | None = None  # a split keeps the images of one specimen together
    scale: float | None = None  # nm per pixel


@dataclass(frozen=True, slots=True)
class Source:
    """A source and its files; their labels are positions in the corpus's classes."""

    spec: SourceSpec
    files: tuple[SourceFile, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """All sources of a corpus, and the classes of all together, in natural order."""

    classes: tuple[str, ...]
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    location: str
    entry: Entry
    name: str
    class_name: str
    specimen: str | None = None
    scale: float | None = None


def list_sources(specs: Sequence[SourceSpec]) -> Listing:
    """List every file of `specs`. Raises `UserError` for a source without the expected layout.

    Hidden files are skipped. The result does not depend on the machine or on the sources' order on
    disk; files in nested folders belong to the class of the first level.
    """
    found = [(spec, _renamed(spec, list(_files(spec)))) for spec in specs]
    names = {file.class_name for _, files in found for file in files}
    classes = tuple(sorted(names, key=natural_key))
    labels = {name: label for label, name in enumerate(classes)}
    sources = []
    for spec, files in found:
        _check_classes_have_images(spec, files)
        _check_names_differ(spec, files)
        order = sorted(files, key=_reading_order)
        source = Source(spec, tuple(_labelled(spec, file, labels) for file in order))
        _check_specimens_match(source)
        sources.append(source)
    return Listing(classes, tuple(sources))


def is_image_name(path: str) -> bool:
    """Whether the file's suffix is that of an image format we read."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def _reading_order(file: _Found) -> Any:
    # A compressed tar can only be read forwards; everything else comes as a person would list it.
    forward = file.entry.offset if is_archive(file.location) else 0
    return natural_key(file.location), forward, natural_key(file.name)


def _labelled(spec: SourceSpec, file: _Found, labels: Mapping[str, int]) -> SourceFile:
    specimen = file.specimen
    if specimen is None and spec.specimen is not None:
        match = re.search(spec.specimen, file.name)
        if match and any(match.groups()):
            specimen = "|".join(part or "" for part in match.groups())
    scale = spec.scale if file.scale is None else file.scale
    label = labels[file.class_name]
    return SourceFile(file.location, file.entry, file.name, label, specimen, scale)


def _files(spec: SourceSpec) -> Iterator[_Found]:
    locations = [location for path in spec.path for location in _expand(path, spec.dataset)]
    for location in locations:
        if spec.layout == "table":
            yield from _table_files(location, spec.columns)
            continue
        prefix = f"{PurePosixPath(location).name}/" if len(locations) > 1 else ""
        if spec.layout == "single":
            for entry in open_store(location).entries():
                yield _Found(location, entry, prefix + entry.path, str(spec.label))
        else:
            yield from _class_folders(location, prefix, alone=len(locations) == 1)


def _expand(path: str, dataset: str | None) -> list[str]:
    if is_url(path):
        return [path]
    if Path(path).exists():
        return [path]
    if glob.has_magic(path) and (matches := glob.glob(path)):  # noqa: PTH207 (any root)
        return sorted(matches, key=natural_key)
    if dataset is not None:
        raise UserError(f"{path} does not exist; get it with: python -m shards.fetch {dataset}")
    kinds = "a folder with one folder per class, an archive, or a table"
    raise UserError(f"no such folder or file: {path}; a source is {kinds}")


def _class_folders(location: str, prefix: str, *, alone: bool) -> Iterator[_Found]:
    if not is_archive(location) and not is_url(location) and not Path(location).is_dir():
        raise UserError(
            f"{location} is neither a folder, an archive nor a table "
            f"({', '.join(TABLE_SUFFIXES)}); a source has one folder of images per class"
        )
    entries = open_store(location).entries()
    skip = _wrapping_folders(entries) if alone and is_archive(location) else 0
    stray = 0
    for entry in entries:
        parts = PurePosixPath(entry.path).parts[skip:]
        if len(parts) > 1:
            yield _Found(location, entry, prefix + entry.path, parts[0])
        elif not alone and is_archive(location):  # an archive per class, without a folder in it
            yield _Found(location, entry, prefix + entry.path, _stem(location))
        else:
            stray += is_image_name(entry.path)
    if stray:
        warn(f"{stray} images in {location} are in no class folder; they are left out")


def _wrapping_folders(entries: Sequence[Entry]) -> int:
    """How many folders wrap the class folders of an archive, as in `MicroNet/steel/1.png`."""
    paths = [PurePosixPath(e.path).parts for e in entries if is_image_name(e.path)]
    skip = 0
    while paths and all(len(path) > skip + 2 for path in paths):
        if len({path[skip] for path in paths}) > 1:
            break
        skip += 1
    return skip


def _stem(location: str) -> str:
    name = PurePosixPath(location).name
    return re.sub(r"(\.tar)?\.[A-Za-z0-9]+$", "", name)


def _renamed(spec: SourceSpec, files: list[_Found]) -> list[_Found]:
    """Apply the recipe's `classes`; names that the source does not have are a mistake in it."""
    where = f"source {spec.name}" if spec.name else spec.path[0]
    present = {file.class_name for file in files}
    if not present:
        raise UserError(f"no class folders in {where}; put the images of each class into a folder")
    if unknown := sorted(set(spec.classes) - present):
        raise UserError(
            f"{where} has no class {unknown[0]!r}, which the recipe renames; "
            f"it has {', '.join(sorted(present, key=natural_key))}"
        )
    renamed = []
    for file in files:
        name = spec.classes.get(file.class_name, file.class_name)
        if name is not None:
            renamed.append(replace(file, class_name=name))
    return renamed


def _check_names_differ(spec: SourceSpec, files: Sequence[_Found]) -> None:
    """Names are identities: two files of one name would become one sample."""
    counts = Counter((file.class_name, file.name) for file in files)
    for (class_name, name), times in counts.items():
        if times > 1:
            raise UserError(
                f"source {spec.name or spec.path[0]} has {name} of class {class_name} {times} "
                "times; make each of its paths a source with a name of its own"
            )


def _check_specimens_match(source: Source) -> None:
    """A pattern that matches no path would silently separate the images of a specimen."""
    spec = source.spec
    if spec.specimen is not None and not any(file.specimen for file in source.files):
        raise UserError(
            f"no path of {spec.name or spec.path[0]} matches the specimen pattern "
            f"{spec.specimen!r}; one of its paths is {source.files[0].name}"
        )


def _check_classes_have_images(spec: SourceSpec, files: Sequence[_Found]) -> None:
    with_images = {file.class_name for file in files if is_image_name(file.name)}
    empty = {file.class_name for file in files} - with_images
    if not spec.name and spec.layout == "folders" and not is_archive(spec.path[0]):
        empty |= _empty_folders(spec.path[0])
    if empty:
        name = min(empty, key=natural_key)
        where = f"class folder {spec.path[0]}/{name}"
        if spec.name or spec.layout != "folders":
            where = f"class {name} of source {spec.name or spec.path[0]}"
        raise UserError(f"{where} has no images; add some or remove it")


def _empty_folders(root: str) -> set[str]:
    if is_url(root):
        return set()
    folders = [p for p in Path(root).iterdir() if p.is_dir() and not p.name.startswith(".")]
    return {
        folder.name
        for folder in folders
        if not any(is_image_name(path.name) for path in folder.rglob("[!.]*"))
    }


def _table_files(location: str, columns: Mapping[str, str]) -> Iterator[_Found]:
    """Rows of path, label and, where the table has them, specimen and scale.

    Paths are relative to the table's folder, absolute, or URLs.
    """
    rows = _table_rows(location)
    base = location.rsplit("/", 1)[0] if "/" in location else "."
    for number, row in enumerate(rows, 1):
        named = [name for name in columns if columns[name] != DEFAULT_COLUMNS[name]]
        for needed in ("path", "label", *named):
            if columns[needed] not in row:
                raise UserError(
                    f"{location} has no column {columns[needed]!r} for the {needed}; it has "
                    f"{', '.join(map(str, row))}; name it in the recipe's `columns`"
                )
        path, label = row[columns["path"]], row[columns["label"]]
        if path in (None, "") or label in (None, ""):
            raise UserError(f"{location}, row {number}: path or label is empty")
        place, entry = _table_place(base, str(path))
        yield _Found(
            location=place,
            entry=entry,
            name=str(path),
            class_name=str(label),
            specimen=_optional(row, columns["specimen"]),
            scale=_positive(row, columns["scale"], location, number),
        )


def _table_rows(location: str) -> list[dict[str, Any]]:
    if not location.lower().endswith(TABLE_SUFFIXES):
        raise UserError(f"{location} is not a table; tables end in {' or '.join(TABLE_SUFFIXES)}")
    with open_location(location) as raw:
        if location.lower().endswith(".parquet"):
            return _parquet_rows(raw, location)
        try:
            text = raw.read().decode("utf-8-sig")
            return list(csv.DictReader(io.StringIO(text, newline="")))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"cannot read table {location}: {error}") from error


def _parquet_rows(raw: IO[bytes], location: str) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(
            f"{location} needs pyarrow: pip install pyarrow, or save the table as .csv"
        ) from None
    try:
        rows: list[dict[str, Any]] = parquet.read_table(raw).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's errors are of these
        raise UserError(f"cannot read table {location}: {error}") from error
    return rows


def _table_place(base: str, path: str) -> tuple[str, Entry]:
    """Store and entry of a path in a table: relative to the table, absolute, or a URL."""
    if is_url(path):
        scheme, _, rest = path.partition("://")
        host, _, inside = rest.partition("/")
        return f"{scheme}://{host}", Entry(inside, None, "")
    if is_url(base):
        return base, Entry(path, None, "")
    try:
        stat = Path(base, path).stat()
    except OSError as error:
        raise UserError(
            f"cannot read {Path(base, path)}: {error.strerror}; a table lists it"
        ) from error
    return base, Entry(path, stat.st_size, str(stat.st_mtime_ns))


def _optional(row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    return None if value in (None, "") else str(value)


def _positive(row: Mapping[str, Any], column: str, location: str, number: int) -> float | None:
    text = _optional(row, column)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(
            f"{location}, row {number}: {column} must be nm per pixel, above 0, not {text!r}"
        )
    return value
