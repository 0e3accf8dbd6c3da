"""List, show, fetch, check and compare the entries of a registry.

python -m pretrain.registry list|show|pull|verify|diff [NAME ...] [--registry URL]
python -m pretrain.registry site [URL] [--out FILE]
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from micrograph.atomic import write_atomically
from micrograph.cli import UserError, console, program, progress
from micrograph.settings import Positional, load_command
from pretrain.cards.entry_names import parse_name
from pretrain.cards.usage import snippets
from pretrain.registry.site.contents import PublishedEntry, find_entries, read_entry
from pretrain.registry.site.listing import entry_facts, entry_tables
from pretrain.registry.site.page import render_page
from pretrain.registry.storage.folder_store import open_registry
from pretrain.registry.storage.pull import REGISTRY_VARIABLE, pinned_name, pull, registry_url

Name = Annotated[str, Positional, "ARCH.TAG or ARCH.TAG@VERSION"]
RegistryUrl = Annotated[
    str | None, f"a folder, s3://bucket/path or hf://ORGANISATION [${REGISTRY_VARIABLE}]"
]
AsJson = Annotated[bool, "for programs"]
EveryVersion = Annotated[bool, "every version, not only the newest"]


@dataclass(frozen=True)
class ListConfig:
    """List every encoder and segmenter."""

    all: EveryVersion = False
    json: AsJson = False
    registry: RegistryUrl = None


@dataclass(frozen=True)
class ShowConfig:
    """Print all that is known of one."""

    name: Name
    json: AsJson = False
    registry: RegistryUrl = None


@dataclass(frozen=True)
class PullConfig:
    """Copy one to the cache and check it; prints its folder."""

    name: Name
    cache_dir: Annotated[Path | None, "[the user's cache]"] = None
    registry: RegistryUrl = None


@dataclass(frozen=True)
class VerifyConfig:
    """Read every byte of the named ones, or of all."""

    names: Annotated[tuple[str, ...], Positional, "[all, in every version]"] = ()
    registry: RegistryUrl = None


@dataclass(frozen=True)
class DiffConfig:
    """Print what differs between two."""

    first: Name
    second: Name
    registry: RegistryUrl = None


@dataclass(frozen=True)
class SiteConfig:
    """Write a page of all, for any web server."""

    url: Annotated[str | None, Positional, f"the registry [${REGISTRY_VARIABLE}]"] = None
    all: EveryVersion = False
    out: Annotated[Path, "file to write"] = Path("encoders.html")


@program
def main(argv: Sequence[str] | None = None) -> None:
    description = "See, fetch, check and compare published encoders and segmenters."
    classes = {name: cls for name, (cls, _) in _COMMANDS.items()}
    name, config = load_command(classes, argv, description)
    _COMMANDS[name][1](config)


def list_entries(config: ListConfig) -> None:
    """Print what the registry holds; damaged entries are named on stderr."""
    url = registry_url(config.registry)
    entries, faults = find_entries(open_registry(url), every_version=config.all)
    if config.json:
        print(json.dumps([_to_json(entry) for entry in entries], indent=1))
    elif entries:
        for table in entry_tables(entries):
            _wide_console().print(table)
    else:
        console.print(f"{url} holds nothing yet; python -m pretrain.publish puts encoders there")
    if faults:
        raise UserError("; ".join(faults))


def show(config: ShowConfig) -> None:
    store = open_registry(registry_url(config.registry))
    entry = read_entry(store, pinned_name(store, config.name))
    if config.json:
        print(json.dumps(_to_json(entry), indent=1))
        return
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column()
    facts.add_column(overflow="fold")
    for key, value in entry_facts(entry).items():
        facts.add_row(escape(key), escape(value))
    out = Console(highlight=False)
    out.print(facts)
    out.print(f"\n{snippets(entry.card, str(entry.name))['here']}", markup=False)


def verify(config: VerifyConfig) -> None:
    """Raises `UserError` naming the entries that differ from what was published."""
    url = registry_url(config.registry)
    store = open_registry(url)
    if config.names:
        names = [pinned_name(store, name) for name in config.names]
    else:
        names = [
            parse_name(name).at(version)
            for name, versions in store.entries().items()
            for version in versions
        ]
    faults = []
    for name in progress(names, f"verify {url}"):
        try:
            with TemporaryDirectory() as scratch:  # not the cache: what the registry holds now
                pull(str(name), url, Path(scratch))
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError(f"{len(faults)} of {len(names)} are damaged: {'; '.join(faults)}")
    console.print(f"{len(names)} entries, every byte is as published")


def diff(config: DiffConfig) -> None:
    """Print the settings of two cards that differ."""
    store = open_registry(registry_url(config.registry))
    entries = [read_entry(store, pinned_name(store, n)) for n in (config.first, config.second)]
    a, b = (_flat(asdict(entry.card)) for entry in entries)
    table = Table("", box=None)
    for entry in entries:
        table.add_column(escape(str(entry.name)), overflow="fold")
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            table.add_row(escape(key), escape(str(a.get(key, ""))), escape(str(b.get(key, ""))))
    if table.row_count:
        Console(highlight=False).print(table)
    else:
        both = " and ".join(str(entry.name) for entry in entries)
        console.print(f"{both} have equal cards, so the same weights")


def site(config: SiteConfig) -> None:
    """Write the page; damaged entries are left out and named on stderr."""
    url = registry_url(config.url)
    entries, faults = find_entries(open_registry(url), every_version=config.all)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(config.out, render_page(entries, url).encode())
    print(config.out)
    if faults:
        raise UserError(f"left out: {'; '.join(faults)}")


def _pull(config: PullConfig) -> None:
    print(pull(config.name, registry_url(config.registry), config.cache_dir))


def _flat(content: object, prefix: str = "") -> dict[str, object]:
    """Nested settings under dotted names."""
    if not isinstance(content, dict):
        return {prefix: content}
    flat: dict[str, object] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _wide_console() -> Console:
    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = 200  # characters: a pipe has no edge to fold at
    return out


def _to_json(entry: PublishedEntry) -> dict[str, object]:
    return {
        "name": entry.name.folder,
        "kind": entry.manifest.kind.name,
        "version": entry.name.version,
        "published": entry.manifest.published,
        "bytes": entry.manifest.bytes,
        "digest": entry.digest,
        "card": asdict(entry.card),
        "scores": [asdict(score) for score in entry.scores],
    }


_COMMANDS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "list": (ListConfig, list_entries),
    "show": (ShowConfig, show),
    "pull": (PullConfig, _pull),
    "verify": (VerifyConfig, verify),
    "diff": (DiffConfig, diff),
    "site": (SiteConfig, site),
}

if __name__ == "__main__":
    main()
