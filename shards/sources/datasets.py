"""Read and check the table of public datasets, `configs/corpora/datasets.yaml`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from micrograph.cli import UserError
from micrograph.settings import build_config, find_recipe, nearest_hint, read_recipe

TABLE = Path("configs/corpora/datasets.yaml")

_NAME = re.compile(r"[a-z0-9_-]+")
_DIGESTS = {"sha256": 64, "md5": 32}  # hexadecimal digits


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """One file of a dataset. `checksum` is `sha256:…` or `md5:…` as its record publishes it."""

    url: str | None  # None: downloaded by hand
    name: str
    checksum: str | None = None
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A public dataset: its authors, its terms of use, and the addresses of its files."""

    name: str
    title: str
    citation: str
    doi: str | None = None
    landing: str | None = None  # the page for people, where it is not the DOI's
    licence: str | None = None
    restriction: str | None = None
    size: str | None = None  # for people, where the files' exact bytes are not known
    # "record": names, addresses and checksums come from the DOI's record when it is fetched
    files: tuple[RemoteFile, ...] | Literal["record"] = ()
    # "flat": images and tables are unpacked from zip files into the folder of the zip
    unpack: Literal["flat"] | None = None
    confirmed: bool = False  # DOI, licence and addresses were checked against the published record
    note: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name must be of a-z, 0-9, _ and -, not {self.name!r}")
        if not self.confirmed and not self.note:
            raise ValueError("a dataset that is not confirmed needs a note that says why")
        if self.page is None:
            raise ValueError("needs a doi or a landing page")
        if self.files == "record" and self.doi is None:
            raise ValueError("files: record needs a doi")

    @property
    def page(self) -> str | None:
        """Its page for people."""
        return self.landing or (f"https://doi.org/{self.doi}" if self.doi else None)


def find_table(path: Path | None = None) -> Path:
    """`path` if given, else the table of the working folder, else the project's own."""
    return path or find_recipe(TABLE)


def read_table(path: Path) -> dict[str, Dataset]:
    """Read every dataset of the table, in its order. Raises `UserError` naming the bad entry."""
    return {name: _dataset(path, name, entry) for name, entry in read_recipe(path).items()}


def find_dataset(table: Mapping[str, Dataset], name: str) -> Dataset:
    """The dataset of that name; raises `UserError` with the nearest one."""
    if name not in table:
        hint = nearest_hint(name, table)
        raise UserError(f"unknown dataset {name!r}; {hint}. All: python -m shards.fetch")
    return table[name]


def _dataset(path: Path, name: str, entry: Any) -> Dataset:
    try:
        if not isinstance(entry, dict):
            raise UserError("must map keys to values")
        files = entry.get("files") or ()
        if files != "record":
            if not isinstance(files, list | tuple):
                raise UserError(f"files must be a list or the word record, not {files!r}")
            files = tuple(map(_file, files))
            if len({file.name for file in files}) < len(files):
                raise UserError("two files have the same name")
        values = {key: value for key, value in entry.items() if key != "files"}
        return build_config(Dataset, values | {"name": name}, {"files": files})
    except UserError as error:
        raise UserError(f"{path}: dataset {name}: {error}") from error


def _file(entry: Any) -> RemoteFile:
    if not isinstance(entry, dict):
        raise UserError(f"a file needs url and name, not {entry!r}")
    values = {key: value for key, value in entry.items() if key not in _DIGESTS}
    sums = {kind: str(entry[kind]) for kind in _DIGESTS if entry.get(kind) is not None}
    for kind, digest in sums.items():
        if not re.fullmatch(rf"[0-9a-f]{{{_DIGESTS[kind]}}}", digest):
            raise UserError(f"{kind} must be {_DIGESTS[kind]} hexadecimal digits, not {digest!r}")
    checksum = next((f"{kind}:{digest}" for kind, digest in sums.items()), None)
    file = build_config(RemoteFile, values, {"checksum": checksum})
    if not str(file.url).startswith(("https://", "http://")):
        raise UserError(f"a file's url must be an http address, not {file.url!r}")
    if Path(file.name).name != file.name or file.name.startswith("."):
        raise UserError(f"a file's name must be a plain file name, not {file.name!r}")
    return file
