"""What `list` and `show` tell of a registry's entries: as tables, and as facts. No torch."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, TypeVar

from rich.markup import escape
from rich.table import Table

from pretrain.card import Card
from pretrain.registry.contents import (
    Found,
    encoders,
    remarks,
    scored_data,
    segmenters,
    training_side,
)
from pretrain.registry.origin import licences_of, recipe_of, short_init
from pretrain.registry.scores import ScoredData, spell_data, spell_score

T = TypeVar("T")
Columns = Mapping[str, Callable[[Found, T], str]]

_LEFT = ("encoder", "segmenter", "its classes", "began from", "licence", "published", "")


def tables_of(found: Sequence[Found]) -> list[Table]:
    """The encoders, then the segmenters, the best of each first."""
    of_encoders, of_segmenters = encoders(found), segmenters(found)
    tables = []
    if of_encoders:
        columns: Columns[Card] = {
            "encoder": _name,
            "top-1": lambda entry, card: _share(card.metrics.get("top1")),
            "classes": lambda entry, card: str(len(card.classes) or ""),
            "began from": lambda entry, card: short_init(card.init),
            **{spell_data(data): partial(_transfer, data) for data in scored_data(found)},
            **_ENDING,
        }
        tables.append(_table(columns, of_encoders))
    if of_segmenters:
        tables.append(
            _table(
                {
                    "segmenter": _name,
                    "micro IoU": lambda entry, card: _share(card.metrics.get("micro_iou")),
                    "its classes": lambda entry, card: ", ".join(card.class_names),
                    "began from": lambda entry, card: short_init(card.init),
                    **_ENDING,
                },
                of_segmenters,
            )
        )
    return tables


def facts_of(found: Found) -> dict[str, str]:
    """All that is known of one, empty facts left out."""
    card = found.card
    metrics = {k: f"{v:.4g}" for k, v in sorted(card.metrics.items()) if v is not None}
    facts = {"name": str(found.name), "kind": found.seal.kind}
    facts["converged"] = "yes" if card.converged else "NO: do not use it"
    if isinstance(card, Card):
        facts |= {
            **metrics,
            "image size": f"{card.image_size} px",
            **{f"mIoU, {spell_data(s.data)}": spell_score(s) for s in found.scores},
            "classes": f"{len(card.classes)}",
            "corpus": card.corpus_hash[:16],
        }
    else:
        facts |= {
            "collapse": card.collapse,
            **metrics,
            "network": f"{card.decoder} on {card.arch}",
            "classes": ", ".join(card.classes),
            "crop size": f"{training_side(card)} px",
            "preparation": ", ".join(f"{key} {value}" for key, value in card.preparation.items()),
            "encoder": card.encoder_sha256[:16],
        }
    facts |= {
        "mean, std": f"{card.mean}, {card.std}",
        "began from": short_init(card.init),
        "sources": ", ".join(f"{s.name or 'unnamed'} ({s.samples:,})" for s in card.sources),
        "licence": licences_of(card.sources),
        "restriction": "; ".join(s.restriction for s in card.sources if s.restriction),
        "recipe": ", ".join(f"{key} {value}" for key, value in recipe_of(card).items()),
        "published": found.seal.published,
        "size": f"{found.seal.bytes / 1e6:.1f} MB in {len(found.seal.files)} files",
        "digest": found.digest,
    }
    if isinstance(card, Card) and card.class_accuracy:
        for label, share in zip(card.classes, card.class_accuracy, strict=True):
            facts[f"  {label}"] = _share(share) or " "
    return {key: value for key, value in facts.items() if value}


def _table(columns: Columns[T], rows: Sequence[tuple[Found, T]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in columns:
        justify: Literal["left", "right"] = "left" if heading in _LEFT else "right"
        table.add_column(escape(heading), justify=justify, overflow="fold")
    for entry, card in rows:
        table.add_row(*(escape(cell(entry, card)) for cell in columns.values()))
    return table


def _name(entry: Found, card: object) -> str:
    return str(entry.name)


def _transfer(data: ScoredData, entry: Found, card: object) -> str:
    return next((f"{s.miou:.1%}" for s in entry.scores if s.data == data), "")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


_ENDING: Columns[object] = {
    "MB": lambda entry, card: f"{entry.seal.bytes / 1e6:.0f}",
    "licence": lambda entry, card: licences_of(entry.card.sources),
    "published": lambda entry, card: entry.seal.published[:10],
    "": lambda entry, card: ", ".join(remarks(entry.card)),
}
