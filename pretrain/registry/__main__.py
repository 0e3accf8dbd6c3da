"""What a registry holds, and whether it is still what was published.

python -m pretrain.registry list|show|pull|verify|diff [NAME ...] [--registry URL]
python -m pretrain.registry site URL
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pretrain.atomic import write_atomically
from pretrain.registry.contents import Found, find_entries, read_entry
from pretrain.registry.listing import facts_of, tables_of
from pretrain.registry.names import parse_name
from pretrain.registry.page import render_page
from pretrain.registry.pull import REGISTRY_VARIABLE, pinned_name, pull, registry_url
from pretrain.registry.readme import snippets
from pretrain.registry.stores import open_registry
from shards.cli import ArgumentParser, UserError, console, program, progress


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description="See, fetch, check and compare published encoders and segmenters.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    helps = {
        "list": "every encoder and segmenter, its newest version",
        "show": "all that is known of one",
        "pull": "copy one to the cache, checked; prints its folder",
        "verify": "read every byte of one, or of all",
        "diff": "what is different between two",
        "site": "write a page of all, to be put on any web server",
    }
    for command, help_ in helps.items():
        sub = commands.add_parser(command, help=help_, description=help_)
        if command == "diff":
            sub.add_argument("names", nargs=2, metavar="NAME", help="ARCH.TAG or ARCH.TAG@VERSION")
        elif command in ("show", "pull"):
            sub.add_argument("names", nargs=1, metavar="NAME", help="ARCH.TAG or ARCH.TAG@VERSION")
        elif command == "verify":
            sub.add_argument("names", nargs="*", metavar="NAME", help="[all, in every version]")
        else:
            sub.add_argument("--all", action="store_true", help="every version")
        if command in ("list", "show"):
            sub.add_argument("--json", action="store_true", help="for programs")
        if command == "site":
            sub.add_argument("--out", type=Path, default=Path("encoders.html"))
            sub.add_argument("url", nargs="?", metavar="URL", help="as --registry")
        sub.add_argument("--registry", metavar="URL", help=f"[${REGISTRY_VARIABLE}]")
        if command == "pull":
            sub.add_argument("--cache-dir", type=Path, help="[the user's cache]")
    arguments = parser.parse_args(argv)
    given = arguments.url if arguments.command == "site" else None
    url = registry_url(given or arguments.registry)
    if arguments.command == "list":
        list_entries(url, every_version=arguments.all, as_json=arguments.json)
    elif arguments.command == "show":
        show(url, arguments.names[0], as_json=arguments.json)
    elif arguments.command == "pull":
        print(pull(arguments.names[0], url, arguments.cache_dir))
    elif arguments.command == "site":
        site(url, arguments.out, every_version=arguments.all)
    elif arguments.command == "verify":
        verify(url, arguments.names)
    else:
        diff(url, *arguments.names)


def list_entries(url: str, *, every_version: bool, as_json: bool) -> None:
    """Print what the registry holds; an entry that cannot be relied on is named on stderr."""
    found, faults = find_entries(open_registry(url), every_version=every_version)
    if as_json:
        print(json.dumps([_plain(entry) for entry in found], indent=1))
    elif found:
        for table in tables_of(found):
            _wide_console().print(table)
    else:
        console.print(f"{url} holds nothing yet; python -m pretrain.publish puts encoders there")
    if faults:
        raise UserError("; ".join(faults))


def show(url: str, name: str, *, as_json: bool) -> None:
    """Print one entry in full."""
    store = open_registry(url)
    found = read_entry(store, pinned_name(store, name))
    if as_json:
        print(json.dumps(_plain(found), indent=1))
        return
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column()
    facts.add_column(overflow="fold")
    for key, value in facts_of(found).items():
        facts.add_row(escape(key), escape(value))
    out = Console(highlight=False)
    out.print(facts)
    out.print(f"\n{snippets(found.card, found.name)['here']}", markup=False)


def verify(url: str, names: Sequence[str]) -> None:
    """Read every byte of the named entries, or of all. Raises `UserError` naming the bad ones."""
    store = open_registry(url)
    if names:
        wanted = [pinned_name(store, name) for name in names]
    else:
        wanted = [
            parse_name(name).at(version)
            for name, versions in store.entries().items()
            for version in versions
        ]
    faults = []
    for name in progress(wanted, f"verify {url}"):
        try:
            with TemporaryDirectory() as scratch:  # not the cache: what the registry holds now
                pull(str(name), url, Path(scratch))
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError(f"{len(faults)} of {len(wanted)} are not right: {'; '.join(faults)}")
    console.print(f"{len(wanted)} entries, every byte as it was published")


def diff(url: str, first: str, second: str) -> None:
    """Print what two cards have different, setting by setting."""
    store = open_registry(url)
    left, right = (read_entry(store, pinned_name(store, name)) for name in (first, second))
    a, b = (_flat(asdict(entry.card)) for entry in (left, right))
    table = Table("", box=None)
    for entry in (left, right):
        table.add_column(escape(str(entry.name)), overflow="fold")
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            table.add_row(escape(key), escape(str(a.get(key, ""))), escape(str(b.get(key, ""))))
    if table.row_count:
        Console(highlight=False).print(table)
    else:
        console.print(f"{left.name} and {right.name} have equal cards, so the same weights")


def site(url: str, out: Path, *, every_version: bool) -> None:
    """Write the page of all entries to `out`; entries that cannot be relied on are left out."""
    found, faults = find_entries(open_registry(url), every_version=every_version)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, render_page(found, url).encode())
    print(out)
    if faults:
        raise UserError(f"left out: {'; '.join(faults)}")


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


def _plain(entry: Found) -> dict[str, object]:
    return {
        "name": entry.name.folder,
        "kind": entry.seal.kind,
        "version": entry.name.version,
        "published": entry.seal.published,
        "bytes": entry.seal.bytes,
        "digest": entry.digest,
        "card": asdict(entry.card),
        "scores": [asdict(score) for score in entry.scores],
    }


if __name__ == "__main__":
    main()
