"""The model card of a segmenter, and the lines that use it. Imports no torch."""

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
from pretrain.segmenter_card import SegmenterCard

_OWN_DECODERS = ("DeepLabV2",)  # downstream's, not smp's


def segmenter_model_card(card: SegmenterCard, name: EntryName) -> str:
    """The text of `README.md`."""
    warning = f"> **This training collapsed: do not use it** ({line_of(card.collapse)})."
    code = segmenter_snippets(card, name)
    parts = [
        front_matter(
            card,
            "segmentation-models-pytorch",
            "image-segmentation",
            ["segmentation", card.decoder, card.arch],
        ),
        f"# {name.folder}",
        f"A segmenter of micrographs: `{card.decoder}` on `{card.arch}`. {plain_init(card.init)}",
        *([] if card.converged else [warning]),
        *restrictions(card),
        "## Use it",
        f"```sh\n{code['here']}\n```",
        "or",
        f"```python\n{code['python']}\n```",
        *_in_smp(code, name),
        _input(card),
        "## What its masks say",
        _classes(card),
        "## How good",
        _metrics(card),
        "## Where it comes from",
        origin(card, _summary(card), "segmenter"),
    ]
    return "\n\n".join(parts) + "\n"


def segmenter_snippets(card: SegmenterCard, name: EntryName) -> dict[str, str]:
    """The lines that use it, by who does; `smp` only where the decoder is one of smp's."""
    found = {
        "here": f"python -m downstream.predict {name} my_images --out masks",
        "python": (
            "from downstream.seg.segmenter import load_segmenter\n\n"
            f'segmenter = load_segmenter("{name}")\n'
            "mask = segmenter.predict(pixels)  # (H, W) class indices"
        ),
    }
    if card.decoder in _OWN_DECODERS:
        return found
    options = {**card.encoder_options, **card.decoder_options}
    spelled = "".join(f", {key}={value!r}" for key, value in options.items())
    return found | {
        "smp": (
            "import segmentation_models_pytorch as smp\n"
            "from safetensors.torch import load_file\n\n"
            f'model = smp.{card.decoder}("{card.arch}", encoder_weights=None, '
            f"classes={len(card.classes)}{spelled})\n"
            'model.load_state_dict(load_file(f"{folder}/best.safetensors"))'
        )
    }


def _in_smp(code: dict[str, str], name: EntryName) -> list[str]:
    if "smp" not in code:
        return []
    return [
        f"or, with `folder` from `python -m pretrain.registry pull {name}`, in smp (logits)",
        f"```python\n{code['smp']}\n```",
    ]


def _input(card: SegmenterCard) -> str:
    text = (
        f"The network's input: RGB, grey repeated to three; values in [0, 1], then minus mean "
        f"`{list_of(card.mean)}`, divided by std `{list_of(card.std)}`; trained on crops of "
        f"{card.crop_size} pixels."
    )
    if not card.preparation:
        return text
    done = line_of(card.spelled_preparation)
    return (
        f"{text} Its images were prepared first ({done}): downstream.predict and "
        "`segmenter.predict` do so by themselves."
    )


def _classes(card: SegmenterCard) -> str:
    rows = []
    for spec in card.classes:
        label, _, value = spec.partition("=")
        rows.append(f"| {cell_of(label)} | {cell_of(value)} |")
    return "\n".join(["| class | value or colour |", "| --- | --- |", *rows])


def _metrics(card: SegmenterCard) -> str:
    rows = [
        f"| {key} | {'' if value is None else f'{value:.1%}'} |"
        for key, value in sorted(card.metrics.items())
    ]
    return "\n".join(["| on the validation images | |", "| --- | ---: |", *rows])


def _summary(card: SegmenterCard) -> str:
    encoder = f", encoder `{card.encoder_sha256[:16]}`" if card.encoder_sha256 else ""
    return f"{len(card.classes)} classes{encoder}; began from {line_of(card.init)} weights."
