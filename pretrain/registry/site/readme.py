"""The model card: `README.md` of an entry, for people and for the Hugging Face hub.

Everything in it comes from the entry's `card.json`. Imports no torch.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from micrograph.templates import render_template
from pretrain.cards.encoder_card import Card
from pretrain.cards.entry_names import HUB_TAG, EntryName
from pretrain.cards.usage import pull_command, snippets
from pretrain.registry.site.contents import recipe_of
from pretrain.registry.site.licences import format_licences, hub_licence, source_name
from pretrain.registry.storage.kinds import AnyCard


def model_card(card: AnyCard, name: EntryName) -> str:
    """The text of `README.md`."""
    ranked: list[tuple[str, float | None]] = []
    if isinstance(card, Card) and card.class_accuracy:
        pairs = zip(card.classes, card.class_accuracy, strict=True)
        ranked = sorted(pairs, key=lambda pair: (pair[1] is None, pair[1] or 0.0))
    filters = {
        "metric": _metric,
        "numbers": numbers,
        "source_name": source_name,
        # JSON is YAML too, and quotes what a source's author wrote.
        "json": lambda value: Markup(json.dumps(value, ensure_ascii=False)),
    }
    return render_template(
        Path(__file__).with_name("readme.md.jinja"),
        filters,
        _markdown,
        card=card,
        name=name,
        front_matter=_front_matter(card),
        code={key: Markup(text) for key, text in snippets(card, str(name)).items()},
        pull=pull_command(str(name)),
        class_accuracy=ranked,
        recipe=recipe_of(card),
    )


def _front_matter(card: AnyCard) -> dict[str, Any]:
    """The metadata that the hub reads."""
    if isinstance(card, Card):
        library, task, tags = "timm", "image-feature-extraction", ["timm", card.arch]
    else:
        library, task = "segmentation-models-pytorch", "image-segmentation"
        tags = ["segmentation", card.decoder, card.arch]
    licence = hub_licence(card.sources)
    facts = {
        "library_name": library,
        "pipeline_tag": task,
        "tags": [HUB_TAG, "microscopy", *tags],
        "license": licence or "other",
    }
    return facts if licence else facts | {"license_name": format_licences(card.sources)}


def numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _metric(value: float | None, name: str = "") -> str:
    if value is None:
        return ""
    return f"{value:g}" if name in ("loss", "epoch") else f"{value:.1%}"


def _markdown(value: object) -> str:
    """A value as one line without HTML or a table's `|`: anybody names classes and sources."""
    return " ".join(str(value).split()).replace("<", "&lt;").replace("|", "\\|")
