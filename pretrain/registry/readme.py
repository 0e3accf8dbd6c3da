"""The model card: `README.md` of an entry, for people and for the Hugging Face hub.

Everything in it comes from the encoder's card. Imports no torch.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pretrain.card import UNPUBLISHED, Card
from pretrain.registry.names import EntryName
from shards.schema import SourceInfo

HUB_TAG = "micrograph-pretrain"  # by which our entries are told from an organisation's others

# What a reader asks of a recipe; the rest stands in card.json.
_RECIPE = (
    "image_size",
    "epochs",
    "batch_size",
    "optimizer",
    "lr",
    "lr_schedule",
    "weight_decay",
    "loss",
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


def model_card(card: Card, name: EntryName) -> str:
    """The text of `README.md`."""
    parts = [
        _front_matter(card),
        f"# {name.folder}",
        f"`{card.arch}`, pre-trained on micrographs, as an encoder for segmentation. "
        + _plain(card.init),
        *_warnings(card),
        "## Load it",
        _snippets(card, name),
        "## How good",
        _metrics(card),
        "## Where it comes from",
        _origin(card),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def openness(card: Card) -> list[str]:
    """Why the encoder may not be published in the open; empty when it may."""
    reasons = [f"{_of(s)} is restricted: {s.restriction}" for s in card.sources if s.restriction]
    reasons += [f"{_of(s)} has no stated licence" for s in card.sources if not s.licence]
    return reasons or ([] if card.sources else ["its card names no source"])


def recipe_of(card: Card) -> dict[str, Any]:
    """The settings that a reader asks for first, where the card has them."""
    return {key: card.config[key] for key in _RECIPE if card.config.get(key) is not None}


def licences_of(sources: Iterable[SourceInfo]) -> str:
    """The licences, each once; `unknown` for a source without."""
    return ", ".join(dict.fromkeys(source.licence or "unknown" for source in sources)) or "unknown"


def snippets(card: Card, name: EntryName) -> dict[str, str]:
    """The lines that load the encoder, by who loads it."""
    options = "".join(f", {key}={value!r}" for key, value in card.encoder_options.items())
    decoder = "DPT" if "num_classes" in card.encoder_options else "Unet"
    return {
        "here": (
            "from downstream.models import create_model\n\n"
            f'model = create_model("{decoder}", "{name}", classes=3)'
        ),
        "smp": (
            "import segmentation_models_pytorch as smp\n"
            "from safetensors.torch import load_file\n\n"
            f'model = smp.{decoder}("{card.arch}", encoder_weights=None, classes=3{options})\n'
            'model.encoder.load_state_dict(load_file(f"{folder}/encoder.safetensors"))'
        ),
        "timm": (
            "import timm\n\n"
            'model = timm.create_model(f"local-dir:{folder}/timm", pretrained=True, num_classes=0)'
        ),
        "torch": (
            "from safetensors.torch import load_file\n\n"
            'tensors = load_file(f"{folder}/encoder.safetensors")  # name -> tensor'
        ),
    }


def _front_matter(card: Card) -> str:
    """What the hub reads; JSON is YAML too, and quotes what a source may have written."""
    licences = {source.licence for source in card.sources}
    only = next(iter(licences)) if len(licences) == 1 else None
    known = _HUB_LICENCES.get(only.lower()) if only else None
    facts: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": [HUB_TAG, "microscopy", "timm", card.arch],
        "license": known or "other",
    }
    if known is None:
        facts["license_name"] = licences_of(card.sources)
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items()]
    return "\n".join(["---", *lines, "---"])


def _warnings(card: Card) -> list[str]:
    lines = []
    if not card.converged:
        lines.append("> **This training did not converge: do not use it.**")
    for source in card.sources:
        if source.restriction:
            lines.append(f"> **Restricted** ({_line(_of(source))}): {_line(source.restriction)}")
    return lines


def _snippets(card: Card, name: EntryName) -> str:
    code = snippets(card, name)
    channels = "one value a channel, grey repeated to three" if card.channels == 1 else "RGB"
    return "\n\n".join(
        [
            f"```python\n{code['here']}\n```",
            f"or, with `folder` from `python -m pretrain.registry pull {name}`, in smp",
            f"```python\n{code['smp']}\n```",
            "or in timm",
            f"```python\n{code['timm']}\n```",
            f"Images: {channels}; values in [0, 1], then minus mean `{_list(card.mean)}`, divided "
            f"by std `{_list(card.std)}`; trained at {card.image_size} pixels.",
        ]
    )


def _metrics(card: Card) -> str:
    rows = [f"| {key} | {_value(key, value)} |" for key, value in sorted(card.metrics.items())]
    text = "\n".join(["| on the validation split | |", "| --- | ---: |", *rows])
    if not card.class_accuracy:
        return text
    ranked = sorted(zip(card.classes, card.class_accuracy, strict=True), key=_by_accuracy)
    rows = [f"| {_cell(name)} | {_share(value)} |" for name, value in ranked]
    return "\n".join([text, "", "| class, worst first | recognised |", "| --- | ---: |", *rows])


def _by_accuracy(row: tuple[str, float | None]) -> tuple[bool, float]:
    return row[1] is None, row[1] or 0.0


def _origin(card: Card) -> str:
    lines = [
        "| corpus | images | licence | restriction | cite |",
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
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    classes = f"{len(card.classes)} classes" if card.classes else "classes not published"
    corpus = f", corpus `{card.corpus_hash[:16]}`" if card.corpus_hash else ""
    recipe = recipe_of(card)
    lines += ["", f"{classes}{corpus}; began from {_line(card.init)} weights."]
    if recipe:
        told = ", ".join(f"{key} {_line(value)}" for key, value in recipe.items())
        lines += ["", f"Recipe: {told}. All of it: `card.json`."]
    if note := card.config.get("note"):
        lines += ["", _line(note)]
    versions = ", ".join(f"{_line(k)} {_line(v)}" for k, v in _sorted(card.versions))
    lines += ["", f"Made with {versions}.", "", f"SHA-256 of the encoder: `{card.sha256}`"]
    return "\n".join(lines)


def _plain(init: str) -> str:
    if init == "random":
        return "Trained from random weights."
    if init == UNPUBLISHED:
        return "Trained on from an encoder that is not published."
    return f"Trained on from {'ImageNet weights' if init == 'imagenet' else f'`{_line(init)}`'}."


def _sorted(values: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(values.items())


def _of(source: SourceInfo) -> str:
    return source.name or "unnamed source"


def _value(key: str, value: float) -> str:
    return f"{value:g}" if key in ("loss", "epoch") else _share(value)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _list(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _cell(value: object) -> str:
    return _line(value).replace("|", "\\|")


def _line(value: object) -> str:
    """On one line, and no HTML: names of classes and sources are whatever somebody typed."""
    return " ".join(str(value).split()).replace("<", "&lt;")
