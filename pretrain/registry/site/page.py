"""All entries of a registry on one self-contained, searchable HTML page. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from micrograph.templates import render_template
from pretrain.cards.archs import find_arch
from pretrain.cards.encoder_card import Card
from pretrain.cards.segmenter_card import SegmenterCard
from pretrain.cards.usage import pull_command, snippets
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
from pretrain.registry.site.listing import format_share
from pretrain.registry.site.readme import numbers
from pretrain.registry.site.scores import ScoredData, format_data, format_score
from shards.shard_format.read_tables import printable

_TOP1 = """Top-1 is on each encoder's own validation images: compare it only between encoders of
one corpus."""
_SCORED = """mIoU is that of a linear classifier on the frozen encoder, fitted to a few labelled
images: compare it between encoders scored on the same ones."""
_MICRO_IOU = """Micro IoU is on each segmenter's own validation images: compare it only between
those of the same ones."""
_NOT_SHARES = ("epoch", "loss")


@dataclass(frozen=True, kw_only=True)
class _Item:
    """An entry's line, and what opens below it."""

    entry: PublishedEntry
    search: str  # lower case
    columns: Sequence[tuple[str, str, str]]  # label, content, CSS class
    scores: Sequence[float] = ()  # by data; -1 without one
    code: Mapping[str, Sequence[str]]  # lines by heading
    facts: Mapping[str, str]
    class_accuracy: Sequence[tuple[str, float | None]] = ()


@dataclass(frozen=True)
class _List:
    heads: Sequence[str]
    quality: str
    items: Sequence[_Item]


def render_page(entries: Sequence[PublishedEntry], registry: str) -> str:
    """The page; encoders before segmenters, those that did not converge last."""
    data = scored_data(entries)
    of_encoders = [_encoder(entry, card, data) for entry, card in encoders(entries)]
    of_segmenters = [_segmenter(entry, card) for entry, card in segmenters(entries)]
    lists, explanations = [], []
    if of_encoders or not of_segmenters:
        # The first data that entries were scored on has a column, the rest is inside.
        scored = [f"mIoU, {format_data(at)}" for at in data[:1]]
        heads = ["encoder", "top-1", *scored, "parameters", "file", "began from"]
        lists.append(_List(heads, "top-1", of_encoders))
        explanations += [_TOP1, *([_SCORED] if data else [])]
    if of_segmenters:
        heads = ["segmenter", "micro IoU", "classes", "file", "began from"]
        lists.append(_List(heads, "micro IoU", of_segmenters))
        explanations.append(_MICRO_IOU)
    title = "Encoders and segmenters of micrographs"
    return render_template(
        Path(__file__).with_name("page.html.jinja"),
        {"share": format_share, "init": format_init, "warnings": warnings_of},
        printable,
        title=title if of_segmenters else "Encoders pre-trained on micrographs",
        registry=registry,
        explanations=explanations,
        scored=[format_data(at) for at in data],
        lists=lists,
    )


def _encoder(entry: PublishedEntry, card: Card, data: Sequence[ScoredData]) -> _Item:
    by_data = {score.data: score.miou for score in entry.scores}
    params = find_arch(card.arch).params
    ranked = zip(card.classes, card.class_accuracy, strict=True) if card.class_accuracy else ()
    return _Item(
        entry=entry,
        search=_search(entry, card.timm_name),
        columns=[
            *(
                (f"mIoU, {format_data(at)}", format_share(by_data.get(at)), "right score")
                for at in data[:1]
            ),
            ("parameters", "" if params is None else f"{params:.1f} M", "right soft"),
        ],
        scores=[by_data.get(at, -1.0) for at in data],
        code=_code(entry),
        facts=_facts(
            entry,
            {"corpus": _sources(card), "classes": str(len(card.classes) or "not published")},
            card.image_size,
        ),
        class_accuracy=sorted(ranked, key=lambda pair: pair[1] or 0.0),
    )


def _segmenter(entry: PublishedEntry, card: SegmenterCard) -> _Item:
    facts = {
        "network": f"{card.decoder} on {card.arch}",
        "classes": ", ".join(card.class_names),
        "images": _sources(card),
    }
    return _Item(
        entry=entry,
        search=_search(entry, f"{card.decoder} segmenter"),
        columns=[("classes", str(len(card.classes)), "right soft")],
        code=_code(entry),
        facts=_facts(entry, facts, card.crop_size),
    )


def _search(entry: PublishedEntry, words: str) -> str:
    card = entry.card
    licences, sources = format_licences(card.sources), (source.name for source in card.sources)
    name = str(entry.name)
    found = [name, card.arch, *card.classes, licences, card.init, *sources, words]
    return " ".join(found).lower()


def _facts(entry: PublishedEntry, of_kind: Mapping[str, str], input_size: int) -> dict[str, str]:
    card = entry.card
    metrics = {k: v for k, v in card.metrics.items() if v is not None and k not in _NOT_SHARES}
    facts = {
        **{key: format_share(value) for key, value in sorted(metrics.items())},
        **{f"mIoU, {format_data(s.data)}": format_score(s) for s in entry.scores},
        **of_kind,
        "licence": format_licences(card.sources),
        "restriction": format_restrictions(card.sources),
        "recipe": format_recipe(card),
        "note": str(card.config.get("note", "")),
        "input": f"{input_size} px; mean {numbers(card.mean)}; std {numbers(card.std)}",
        "published": entry.manifest.published[:10],
        "digest": entry.digest[:16],
    }
    return {key: value for key, value in facts.items() if value}


def _sources(card: Card | SegmenterCard) -> str:
    return ", ".join(source.name or "unnamed" for source in card.sources)


def _code(entry: PublishedEntry) -> dict[str, list[str]]:
    code = snippets(entry.card, str(entry.name))
    headings = {
        "here": "Use it",
        "python": "or in Python",
        "pull": "Or get the folder",
        "smp": "and load it in smp",
        "timm": "or in timm",
    }
    code["pull"] = pull_command(str(entry.name))
    return {head: code[key].splitlines() for key, head in headings.items() if key in code}
