"""What a registry holds, and whether it is still what was published.

python -m pretrain.registry list|show|pull|verify|diff [NAME ...] [--registry URL]
python -m pretrain.registry score [NAME ...] --data DIR
python -m pretrain.registry site URL
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pretrain.atomic import write_atomically
from pretrain.registry.contents import Found, find_entries, read_entry, scored_data
from pretrain.registry.names import parse_name
from pretrain.registry.page import render_page
from pretrain.registry.pull import REGISTRY_VARIABLE, pinned_name, pull, registry_url
from pretrain.registry.readme import licences_of, recipe_of, snippets
from pretrain.registry.scores import ScoredData, spell_data, spell_score
from pretrain.registry.stores import open_registry
from shards.cli import ArgumentParser, UserError, console, program, progress


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description="See, fetch, check and compare published encoders.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    helps = {
        "list": "every encoder, its newest version",
        "show": "all that is known of one",
        "pull": "copy one to the cache, checked; prints its folder",
        "verify": "read every byte of one, or of all",
        "diff": "what is different between two",
        "site": "write a page of all encoders, to be put on any web server",
    }
    commands.add_parser("score", help="rank them on a few labelled images", add_help=False)
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
            sub.add_argument("registry", nargs="?", metavar="URL", help=f"[${REGISTRY_VARIABLE}]")
        else:
            sub.add_argument("--registry", metavar="URL", help=f"[${REGISTRY_VARIABLE}]")
        if command == "pull":
            sub.add_argument("--cache-dir", type=Path, help="[the user's cache]")
    arguments, others = parser.parse_known_args(argv)
    if arguments.command == "score":
        sys.exit(score(others))
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    url = registry_url(arguments.registry)
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
        _print_table(found)
    else:
        console.print(f"{url} holds no encoder; python -m pretrain.publish puts some there")
    if faults:
        raise UserError("; ".join(faults))


def show(url: str, name: str, *, as_json: bool) -> None:
    """Print one entry in full."""
    store = open_registry(url)
    found = read_entry(store, pinned_name(store, name))
    if as_json:
        print(json.dumps(_plain(found), indent=1))
        return
    card, facts = found.card, Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column()
    facts.add_column(overflow="fold")
    rows = {
        "name": str(found.name),
        "converged": "yes" if card.converged else "NO: do not use it",
        **{key: f"{value:.4g}" for key, value in sorted(card.metrics.items())},
        "image size": f"{card.image_size} px",
        **{f"mIoU, {spell_data(s.data)}": spell_score(s) for s in found.scores},
        "mean, std": f"{card.mean}, {card.std}",
        "began from": card.init,
        "classes": f"{len(card.classes)}",
        "corpus": card.corpus_hash[:16],
        "sources": ", ".join(f"{s.name or 'unnamed'} ({s.samples:,})" for s in card.sources),
        "licence": licences_of(card.sources),
        "restriction": "; ".join(s.restriction for s in card.sources if s.restriction),
        "recipe": ", ".join(f"{key} {value}" for key, value in recipe_of(card).items()),
        "published": found.seal.published,
        "size": f"{found.seal.bytes / 1e6:.1f} MB in {len(found.seal.files)} files",
        "digest": found.digest,
    }
    for key, value in rows.items():
        if value:
            facts.add_row(key, escape(value))
    if card.class_accuracy:
        for label, share in zip(card.classes, card.class_accuracy, strict=True):
            facts.add_row(f"  {escape(label)}", "" if share is None else f"{share:.1%}")
    out = Console(highlight=False)
    out.print(facts)
    out.print(f"\n{snippets(card, found.name)['here']}", markup=False)


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
    console.print(f"{len(wanted)} encoders, every byte as it was published")


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
    """Write the page of all encoders to `out`; entries that cannot be relied on are left out."""
    found, faults = find_entries(open_registry(url), every_version=every_version)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, render_page(found, url).encode())
    print(out)
    if faults:
        raise UserError(f"left out: {'; '.join(faults)}")


def score(arguments: Sequence[str]) -> int:
    """Run the probe, which needs torch and lies downstream: by its name, as it imports us."""
    if find_spec("torch") is None:
        raise UserError("scoring needs torch, which is not installed here; pip install '.[train]'")
    return subprocess.run([sys.executable, "-m", "downstream.score", *arguments]).returncode


def _flat(content: object, prefix: str = "") -> dict[str, object]:
    """Nested settings under dotted names."""
    if not isinstance(content, dict):
        return {prefix: content}
    flat: dict[str, object] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _plain(entry: Found) -> dict[str, object]:
    return {
        "name": entry.name.folder,
        "version": entry.name.version,
        "published": entry.seal.published,
        "bytes": entry.seal.bytes,
        "digest": entry.digest,
        "card": asdict(entry.card),
        "scores": [asdict(score) for score in entry.scores],
    }


def _print_table(found: Sequence[Found]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    columns: dict[str, Callable[[Found], str]] = {
        "name": lambda entry: str(entry.name),
        "top-1": _top1,
        "classes": lambda entry: str(len(entry.card.classes) or ""),
        "began from": lambda entry: entry.card.init,
        **{spell_data(data): partial(_transfer, data) for data in scored_data(found)},
        "MB": lambda entry: f"{entry.seal.bytes / 1e6:.0f}",
        "licence": lambda entry: licences_of(entry.card.sources),
        "published": lambda entry: entry.seal.published[:10],
        "": _remarks,
    }
    for heading in columns:
        right = heading not in ("name", "began from", "licence", "published", "")
        table.add_column(escape(heading), justify="right" if right else "left", overflow="fold")
    ranked = sorted(found, key=lambda e: (not e.card.converged, -e.card.metrics.get("top1", 0.0)))
    for entry in ranked:
        table.add_row(*(escape(cell(entry)) for cell in columns.values()))
    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = 200  # characters: a pipe has no edge to fold at
    out.print(table)


def _top1(entry: Found) -> str:
    value = entry.card.metrics.get("top1")
    return "" if value is None else f"{value:.1%}"


def _transfer(data: ScoredData, entry: Found) -> str:
    return next((f"{s.miou:.1%}" for s in entry.scores if s.data == data), "")


def _remarks(entry: Found) -> str:
    marks = [] if entry.card.converged else ["did not converge"]
    if any(source.restriction for source in entry.card.sources):
        marks.append("restricted")
    return ", ".join(marks)


if __name__ == "__main__":
    main()
