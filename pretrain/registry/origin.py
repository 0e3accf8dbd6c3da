"""Where an entry comes from, and on what terms: what the model cards of all kinds share.

Sources, licences and restrictions run from the corpus recipe to here. Imports no torch.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pretrain.card import UNPUBLISHED
from pretrain.registry.kinds import AnyCard
from shards.schema import SourceInfo

HUB_TAG = "micrograph-pretrain"  # by which our entries are told from an organisation's others

# What a reader asks of a recipe; the rest stands in card.json.
_RECIPE = (
    "method",
    "image_size",
    "crop_size",
    "epochs",
    "steps",
    "max_epochs",
    "batch_size",
    "optimizer",
    "lr",
    "stage2_lr",
    "lr_schedule",
    "weight_decay",
    "loss",
    "augmentation",
    "patience",
    "seed",
)
# The hub's identifiers of licences.
_HUB_LICENCES = {
    "apache-2.0": "apache-2.0",
    "cc-by-4.0": "cc-by-4.0",
    "cc-by-sa-4.0": "cc-by-sa-4.0",
    "cc0-1.0": "cc0-1.0",
    "mit": "mit",
}


def openness(card: AnyCard) -> list[str]:
    """Why the entry may not be published in the open; empty when it may."""
    reasons = [f"{_of(s)} is restricted: {s.restriction}" for s in card.sources if s.restriction]
    reasons += [f"{_of(s)} has no stated licence" for s in card.sources if not s.licence]
    return reasons or ([] if card.sources else ["its card names no source"])


def recipe_of(card: AnyCard) -> dict[str, Any]:
    """The settings that a reader asks for first, where the card has them."""
    return {key: card.config[key] for key in _RECIPE if card.config.get(key) is not None}


def licences_of(sources: Iterable[SourceInfo]) -> str:
    """The licences, each once; `unknown` for a source without."""
    return ", ".join(dict.fromkeys(source.licence or "unknown" for source in sources)) or "unknown"


def front_matter(card: AnyCard, library: str, task: str, tags: Sequence[str]) -> str:
    """What the hub reads; JSON is YAML too, and quotes what a source may have written."""
    licences = {source.licence for source in card.sources}
    only = next(iter(licences)) if len(licences) == 1 else None
    known = _HUB_LICENCES.get(only.lower()) if only else None
    facts: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": task,
        "tags": [HUB_TAG, "microscopy", *tags],
        "license": known or "other",
    }
    if known is None:
        facts["license_name"] = licences_of(card.sources)
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items()]
    return "\n".join(["---", *lines, "---"])


def restrictions(card: AnyCard) -> list[str]:
    """A line of warning for each."""
    return [
        f"> **Restricted** ({line_of(_of(source))}): {line_of(source.restriction)}"
        for source in card.sources
        if source.restriction
    ]


def short_init(init: str) -> str:
    """What the training began from, for a column."""
    return "an encoder" if init == UNPUBLISHED else init


def plain_init(init: str) -> str:
    """A sentence on the weights that the training began from."""
    if init == "random":
        return "Trained from random weights."
    if init == UNPUBLISHED:
        return "Trained on from an encoder that is not published."
    return f"Trained on from {'ImageNet weights' if init == 'imagenet' else f'`{line_of(init)}`'}."


def origin(card: AnyCard, summary: str, weights: str) -> str:
    """The sources as a table, `summary`, recipe, versions and SHA-256 of the `weights`."""
    lines = [
        "| source | images | licence | restriction | cite |",
        "| --- | ---: | --- | --- | --- |",
    ]
    for source in card.sources:
        cells = (
            _of(source),
            f"{source.samples:,}" if source.samples else "",
            source.licence or "unknown",
            source.restriction or "",
            source.citation or "",
        )
        lines.append(f"| {' | '.join(cell_of(cell) for cell in cells)} |")
    lines += ["", summary]
    if recipe := recipe_of(card):
        told = ", ".join(f"{key} {line_of(value)}" for key, value in recipe.items())
        lines += ["", f"Recipe: {told}. All of it: `card.json`."]
    if note := card.config.get("note"):
        lines += ["", line_of(note)]
    versions = ", ".join(f"{line_of(k)} {line_of(v)}" for k, v in sorted(card.versions.items()))
    lines += ["", f"Made with {versions}.", "", f"SHA-256 of the {weights}: `{card.sha256}`"]
    return "\n".join(lines)


def list_of(values: Iterable[float]) -> str:
    """Numbers for people."""
    return ", ".join(f"{value:g}" for value in values)


def cell_of(value: object) -> str:
    """As `line_of`, in a table."""
    return line_of(value).replace("|", "\\|")


def line_of(value: object) -> str:
    """On one line, and no HTML: names of classes and sources are whatever somebody typed."""
    return " ".join(str(value).split()).replace("<", "&lt;")


def _of(source: SourceInfo) -> str:
    return source.name or "unnamed source"
