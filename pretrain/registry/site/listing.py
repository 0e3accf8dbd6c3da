"""What `list` and `show` print of a registry's entries: tables, and facts. Imports no torch."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, TypeVar

from rich.markup import escape
from rich.table import Table

from pretrain.cards.encoder_card import Card
from pretrain.registry.site.contents import (
    PublishedEntry,
    encoders,
    format_init,
    format_recipe,
    scored_data,
    segmenters,
    warnings_of,
)
from pretrain.registry.site.licences import format_licences, format_restrictions
from pretrain.registry.site.scores import ScoredData, format_data, format_score

T = TypeVar("T")
Columns = Mapping[str, Callable[[PublishedEntry, T], str]]

_LEFT = ("encoder", "segmenter", "its classes", "began from", "licence", "published", "")


def entry_tables(entries: Sequence[PublishedEntry]) -> list[Table]:
    """The encoders, then the segmenters, the best of each first."""
    tables = []
    if of_encoders := encoders(entries):
        columns: Columns[Card] = {
            "encoder": _name,
            "top-1": lambda entry, card: format_share(card.quality),
            "classes": lambda entry, card: str(len(card.classes) or ""),
            "began from": _init,
            **{format_data(data): partial(_score, data) for data in scored_data(entries)},
            **_LAST_COLUMNS,
        }
        tables.append(_table(columns, of_encoders))
    if of_segmenters := segmenters(entries):
        tables.append(
            _table(
                {
                    "segmenter": _name,
                    "micro IoU": lambda entry, card: format_share(card.quality),
                    "its classes": lambda entry, card: ", ".join(card.class_names),
                    "began from": _init,
                    **_LAST_COLUMNS,
                },
                of_segmenters,
            )
        )
    return tables


def entry_facts(entry: PublishedEntry) -> dict[str, str]:
    """All that is known of one; unknown facts are left out."""
    card = entry.card
    metrics = {k: f"{v:.4g}" for k, v in sorted(card.metrics.items()) if v is not None}
    facts = {"name": str(entry.name), "kind": entry.manifest.kind.name}
    facts["converged"] = "yes" if card.converged else "NO: do not use it"
    if isinstance(card, Card):
        facts |= {
            **metrics,
            "image size": f"{card.image_size} px",
            **{f"mIoU, {format_data(s.data)}": format_score(s) for s in entry.scores},
            "classes": f"{len(card.classes)}",
            "corpus": card.corpus_hash[:16],
        }
    else:
        facts |= {
            "collapse": card.collapse,
            **metrics,
            "network": f"{card.decoder} on {card.arch}",
            "classes": ", ".join(card.classes),
            "crop size": f"{card.crop_size} px",
            "preparation": ", ".join(f"{key} {value}" for key, value in card.preparation.items()),
            "encoder": card.encoder_sha256[:16],
        }
    facts |= {
        "mean, std": f"{card.mean}, {card.std}",
        "began from": format_init(card.init),
        "sources": ", ".join(f"{s.name or 'unnamed'} ({s.samples:,})" for s in card.sources),
        "licence": format_licences(card.sources),
        "restriction": format_restrictions(card.sources),
        "recipe": format_recipe(card),
        "published": entry.manifest.published,
        "size": f"{entry.manifest.bytes / 1e6:.1f} MB in {len(entry.manifest.files)} files",
        "digest": entry.digest,
    }
    if isinstance(card, Card) and card.class_accuracy:
        for label, share in zip(card.classes, card.class_accuracy, strict=True):
            facts[f"  {label}"] = format_share(share) or " "
    return {key: value for key, value in facts.items() if value}


def format_share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _table(columns: Columns[T], rows: Sequence[tuple[PublishedEntry, T]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in columns:
        justify: Literal["left", "right"] = "left" if heading in _LEFT else "right"
        table.add_column(escape(heading), justify=justify, overflow="fold")
    for entry, card in rows:
        table.add_row(*(escape(cell(entry, card)) for cell in columns.values()))
    return table


def _name(entry: PublishedEntry, card: object) -> str:
    return str(entry.name)


def _init(entry: PublishedEntry, card: object) -> str:
    return format_init(entry.card.init)


def _score(data: ScoredData, entry: PublishedEntry, card: object) -> str:
    return next((format_share(s.miou) for s in entry.scores if s.data == data), "")


_LAST_COLUMNS: Columns[object] = {
    "MB": lambda entry, card: f"{entry.manifest.bytes / 1e6:.0f}",
    "licence": lambda entry, card: format_licences(entry.card.sources),
    "published": lambda entry, card: entry.manifest.published[:10],
    "": lambda entry, card: ", ".join(warnings_of(entry.card)),
}
