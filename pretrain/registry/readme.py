"""The model card: `README.md` of an entry, for people and for the Hugging Face hub.

Everything in it comes from the entry's `card.json`. Imports no torch.
"""

from pretrain.card import Card
from pretrain.registry.kinds import AnyCard
from pretrain.registry.names import EntryName
from pretrain.registry.origin import (
    cell_of,
    front_matter,
    line_of,
    list_of,
    origin,
    plain_init,
    restrictions,
)
from pretrain.registry.segmenter_readme import segmenter_model_card, segmenter_snippets
from pretrain.segmenter_card import SegmenterCard


def model_card(card: AnyCard, name: EntryName) -> str:
    """The text of `README.md`."""
    if isinstance(card, SegmenterCard):
        return segmenter_model_card(card, name)
    warnings = [] if card.converged else ["> **This training did not converge: do not use it.**"]
    parts = [
        front_matter(card, "timm", "image-feature-extraction", ["timm", card.arch]),
        f"# {name.folder}",
        f"`{card.arch}`, pre-trained on micrographs, as an encoder for segmentation. "
        + plain_init(card.init),
        *warnings,
        *restrictions(card),
        "## Load it",
        _snippets(card, name),
        "## How good",
        _metrics(card),
        "## Where it comes from",
        origin(card, _summary(card), "encoder"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def snippets(card: AnyCard, name: EntryName) -> dict[str, str]:
    """The lines that load the entry, by who loads it."""
    if isinstance(card, SegmenterCard):
        return segmenter_snippets(card, name)
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
            f"Images: {channels}; values in [0, 1], then minus mean `{list_of(card.mean)}`, "
            f"divided by std `{list_of(card.std)}`; trained at {card.image_size} pixels.",
        ]
    )


def _metrics(card: Card) -> str:
    rows = [f"| {key} | {_value(key, value)} |" for key, value in sorted(card.metrics.items())]
    text = "\n".join(["| on the validation split | |", "| --- | ---: |", *rows])
    if not card.class_accuracy:
        return text
    ranked = sorted(zip(card.classes, card.class_accuracy, strict=True), key=_by_accuracy)
    rows = [f"| {cell_of(name)} | {_share(value)} |" for name, value in ranked]
    return "\n".join([text, "", "| class, worst first | recognised |", "| --- | ---: |", *rows])


def _by_accuracy(row: tuple[str, float | None]) -> tuple[bool, float]:
    return row[1] is None, row[1] or 0.0


def _summary(card: Card) -> str:
    classes = f"{len(card.classes)} classes" if card.classes else "classes not published"
    corpus = f", corpus `{card.corpus_hash[:16]}`" if card.corpus_hash else ""
    return f"{classes}{corpus}; began from {line_of(card.init)} weights."


def _value(key: str, value: float) -> str:
    return f"{value:g}" if key in ("loss", "epoch") else _share(value)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
