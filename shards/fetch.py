"""Download public datasets: resumed after an interruption, checked, never downloaded twice.

python -m shards.fetch                              # lists them
python -m shards.fetch aversa_nffa --dir data/raw   # its files, into data/raw/aversa_nffa
python -m shards.fetch micronet_public              # all datasets of that recipe
"""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple

import requests
from pooch.downloaders import doi_to_repository
from rich.console import Console
from rich.table import Table

from micrograph.atomic import write_atomically
from micrograph.cli import UserError, console, program, progress, progress_bar, warn
from micrograph.download import TIMEOUT, download
from micrograph.settings import Positional, load_config
from shards.sources.datasets import Dataset, RemoteFile, find_dataset, find_table, read_table
from shards.sources.listing import is_image_name
from shards.sources.recipe import read_corpus

RECORD_NAME = "FETCHED.json"  # beside the files: their URLs and checksums
MB = 1e6


class Sums(NamedTuple):
    """Size and checksums of a file on disk."""

    bytes: int
    sha256: str
    md5: str


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Fetch a public dataset; without a name, list them."""

    name: Annotated[str | None, Positional, "dataset, or recipe of several"] = None
    list: Annotated[bool, "list the datasets"] = False
    dir: Annotated[Path, "files go to DIR/NAME"] = Path("data/raw")
    datasets: Annotated[Path | None, "another table of datasets"] = None


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(FetchConfig, argv)
    path = find_table(config.datasets)
    table = read_table(path)
    if config.name is None or config.list:
        _print_table(table.values())
        return
    failed = []
    for name in _wanted(config.name, table, path.parent):
        try:
            print(fetch(find_dataset(table, name), config.dir))
        except UserError as error:  # the other datasets may work
            failed.append(error)
    if failed:
        raise UserError(" Also: ".join(map(str, failed)))


def _wanted(name: str, table: Mapping[str, Dataset], recipes: Path) -> list[str]:
    """The dataset of that name, or all datasets of the recipe of that name."""
    recipe = recipes / f"{name}.yaml"
    if name in table or not recipe.is_file():
        return [name]
    named = [source.dataset for source in read_corpus(recipe).sources if source.dataset]
    if not named:
        raise UserError(f"{recipe} names no public dataset; ask the owner of its data")
    return named


def fetch(dataset: Dataset, folder: Path) -> Path:
    """Download every file of `dataset` to `folder/NAME` and return that folder.

    An existing file is checked, not downloaded again. Zip and tar files stay packed unless the
    dataset says otherwise. Raises `UserError` for a file that differs from its record, for a
    dataset that must be downloaded by hand, and for a failed download.
    """
    target = folder / dataset.name
    if not dataset.files:
        return _collected_by_hand(dataset, target)
    _print_terms(dataset)
    target.mkdir(parents=True, exist_ok=True)
    record = _read_record(target)
    files = _listed(dataset, record) if dataset.files == "record" else dataset.files
    for file in files:
        path = target / file.name
        sums = _check_present(path, file, record) if path.exists() else _fetch_file(path, file)
        record[file.name] = _entry(file, sums)
        _write_record(target, dataset, record)
        if dataset.unpack and path.suffix.lower() == ".zip":
            _unpack_flat(path)
    return target


def _fetch_file(path: Path, file: RemoteFile) -> Sums:
    size = f" ({file.bytes / 1e9:.2f} GB)" if file.bytes else ""
    if not console.is_terminal:
        console.print(f"{file.name}{size} …", markup=False)
    found: list[Sums] = []

    def check(part: Path) -> str | None:
        found[:] = [_sums(part)]
        wrong = _difference(found[0], file)
        return wrong and (
            f"{file.name} came with {wrong}; it was deleted. Run again; if that does not help, "
            f"the file at {file.url} is no longer the one of the table"
        )

    with progress_bar() as bar:
        task = bar.add_task(f"{file.name}, MB", total=None, note="")

        def report(have: int, total: int | None) -> None:
            total = total or file.bytes
            bar.update(task, completed=have / MB, total=total / MB if total else None)

        assert file.url is not None
        download(file.url, path, check, report)
    if not file.checksum:
        console.print(
            f"{file.name}: no checksum is published; its sha256 is now in {RECORD_NAME}",
            markup=False,
            soft_wrap=True,
        )
    return found[0]


def _check_present(path: Path, file: RemoteFile, record: Mapping[str, Mapping[str, Any]]) -> Sums:
    sums = _sums(path)
    wrong = _difference(sums, file)
    earlier = record.get(file.name, {}).get("sha256")
    if not wrong and not file.checksum and earlier and earlier != sums.sha256:
        wrong = f"sha256 {sums.sha256} where {RECORD_NAME} says {earlier}"
    if wrong:
        raise UserError(f"{path} exists, but has {wrong}; delete it and run again")
    console.print(f"{file.name}: exists and is unchanged", markup=False)
    return sums


def _difference(sums: Sums, file: RemoteFile) -> str | None:
    """How a file differs from its record, or None."""
    if file.checksum:
        kind, wanted = file.checksum.split(":")
        if (found := getattr(sums, kind)) != wanted:
            return f"{kind} {found} where its record says {wanted}"
    if file.bytes is not None and sums.bytes != file.bytes:
        return f"{sums.bytes} bytes where its record says {file.bytes}"
    return None


def _sums(path: Path) -> Sums:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            md5.update(block)
            size += len(block)
    return Sums(size, sha256.hexdigest(), md5.hexdigest())


def _listed(dataset: Dataset, record: dict[str, dict[str, Any]]) -> list[RemoteFile]:
    """The files of the DOI's record, requested once and then kept in our own `record`."""
    if not record:
        for file in _request_record(dataset):
            record[file.name] = {"url": file.url, "published": file.checksum}
    return [
        RemoteFile(url=entry["url"], name=name, checksum=entry["published"])
        for name, entry in record.items()
    ]


def _request_record(dataset: Dataset) -> tuple[RemoteFile, ...]:
    """Request the files and checksums of a record at Zenodo, figshare or a Dataverse."""
    listing = SimpleNamespace(registry={})  # pooch fills it: names to checksums
    try:
        repository = doi_to_repository(dataset.doi, timeout=TIMEOUT)
        repository.populate_registry(listing)
        return tuple(
            # Zenodo names a repository's snapshot OWNER/REPOSITORY-TAG.zip: the last part will do.
            RemoteFile(url=repository.download_url(name), name=Path(name).name, checksum=checksum)
            for name, checksum in listing.registry.items()
        )
    except (requests.RequestException, ValueError, KeyError) as error:
        raise UserError(
            f"the record of {dataset.name} gave no list of files ({type(error).__name__}); "
            f"look at {dataset.page}"
        ) from error


def _collected_by_hand(dataset: Dataset, target: Path) -> Path:
    """Record the files that a user downloaded, or raise with instructions to download them."""
    files = sorted(path for path in target.rglob("*") if path.is_file()) if target.is_dir() else []
    found = [path for path in files if path.name != RECORD_NAME and not path.name.startswith(".")]
    if not found:
        raise UserError(
            f"no file addresses are known for {dataset.name}: open {dataset.page}, download "
            f"{dataset.title} and put it into {target}, without unpacking; then run this again to "
            f"record its checksums. Licence: {dataset.licence or 'see there'}"
        )
    _print_terms(dataset)
    record = _read_record(target)
    for path in progress(found, f"reading {target}"):
        name = path.relative_to(target).as_posix()
        file = RemoteFile(url=None, name=name)
        record[name] = _entry(file, _check_present(path, file, record))
    _write_record(target, dataset, record)
    return target


def _unpack_flat(archive: Path) -> None:
    """Put the images and tables of a zip file beside it, without its folders."""
    with zipfile.ZipFile(archive) as opened:
        wanted = {
            member: archive.parent / Path(member.filename).name
            for member in opened.infolist()
            if is_image_name(member.filename) or member.filename.lower().endswith(".csv")
        }
        if len(set(wanted.values())) < len(wanted):
            raise UserError(f"{archive} has files of equal names in several folders; unzip it")
        missing = [
            (member, path)
            for member, path in wanted.items()
            if not path.exists() or path.stat().st_size != member.file_size
        ]
        for member, path in progress(missing, f"unpacking {archive.name}"):
            path.write_bytes(opened.read(member))  # checks the member's CRC


def _print_terms(dataset: Dataset) -> None:
    licence = dataset.licence or f"see {dataset.page}"
    console.print(
        f"{dataset.title}\n  licence: {licence}\n  cite: {dataset.citation}", markup=False
    )
    if dataset.restriction:
        warn(f"{dataset.name} is restricted: {dataset.restriction}")
    if not dataset.confirmed:
        warn(f"{dataset.name} is not confirmed: {' '.join(dataset.note.split())}")


def _read_record(target: Path) -> dict[str, dict[str, Any]]:
    path = target / RECORD_NAME
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path}: {error}; delete it and run again") from error


def _write_record(target: Path, dataset: Dataset, record: Mapping[str, Mapping[str, Any]]) -> None:
    content = {
        "dataset": dataset.name,
        "title": dataset.title,
        "citation": dataset.citation,
        "doi": dataset.doi,
        "licence": dataset.licence,
        "restriction": dataset.restriction,
        "files": dict(record),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(target / RECORD_NAME, text.encode())


def _entry(file: RemoteFile, sums: Sums) -> dict[str, Any]:
    """What the record says of a file."""
    own = {"bytes": sums.bytes, "sha256": sums.sha256}
    return {"url": file.url, "published": file.checksum} | own


def _print_table(datasets: Iterable[Dataset]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "what", "size", "licence", "DOI or page", "confirmed"):
        table.add_column(heading, overflow="fold")
    for dataset in datasets:
        table.add_row(
            dataset.name,
            dataset.title,
            _size_text(dataset),
            dataset.licence or "see there",
            dataset.doi or dataset.landing,
            ("yes" if dataset.confirmed else "no") + ("" if dataset.files else ", by hand"),
        )
    out = Console(highlight=False, markup=False)
    if not out.is_terminal:
        out = Console(highlight=False, markup=False, width=240)  # characters; a pipe has no width
    out.print(table)


def _size_text(dataset: Dataset) -> str:
    if dataset.size:
        return dataset.size
    known = [] if dataset.files == "record" else [file.bytes for file in dataset.files]
    if not known or None in known:
        return "?"
    return f"{sum(size or 0 for size in known) / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
