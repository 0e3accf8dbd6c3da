"""How encoders and segmenters are used: commands and code, for READMEs, pages and messages.

Text only. Most of it names packages that import this one, so it stands in this file alone.
Imports no torch.
"""

from collections.abc import Mapping
from pathlib import Path

from pretrain.cards.encoder_card import Card
from pretrain.cards.segmenter_card import SegmenterCard

_DECODERS_NOT_IN_SMP = ("DeepLabV2",)


def segment_command(init: str | Path, data: str = "DIR") -> str:
    """Fine-tune a segmenter from the encoder `init`."""
    return f"python -m downstream.segment --data {data} --init {init}"


def predict_command(segmenter: str | Path, images: str = "IMAGES", out: str = "DIR") -> str:
    """Segment images."""
    return f"python -m downstream.predict {segmenter} {images} --out {out}"


def calibrate_command(segmenter: str | Path) -> str:
    """Calibrate a segmenter and learn which images are unlike its own."""
    return f"python -m downstream.calibrate {segmenter}"


def pull_command(name: str) -> str:
    """Copy an entry of a registry to the cache."""
    return f"python -m pretrain.registry pull {name}"


def snippets(card: Card | SegmenterCard, name: str) -> dict[str, str]:
    """The lines that use the entry `name`, by what runs them.

    `here` is this project; `smp`, `timm` and `torch` need only `folder`, where its files are.
    """
    return _segmenter(card, name) if isinstance(card, SegmenterCard) else _encoder(card, name)


def _encoder(card: Card, name: str) -> dict[str, str]:
    decoder = "DPT" if "num_classes" in card.encoder_options else "Unet"
    return {
        "here": (
            "from downstream.network.models import create_model\n\n"
            f'model = create_model("{decoder}", "{name}", classes=3)'
        ),
        "smp": (
            "import segmentation_models_pytorch as smp\n"
            "from safetensors.torch import load_file\n\n"
            f'model = smp.{decoder}("{card.arch}", encoder_weights=None, '
            f"classes=3{_options(card.encoder_options)})\n"
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


def _segmenter(card: SegmenterCard, name: str) -> dict[str, str]:
    here = {
        "here": predict_command(name, "my_images", "masks"),
        "python": (
            "from downstream.network.segmenter import load_segmenter\n\n"
            f'segmenter = load_segmenter("{name}")\n'
            "mask = segmenter.predict(pixels)  # (H, W) class indices"
        ),
    }
    if card.decoder in _DECODERS_NOT_IN_SMP:
        return here
    options = _options({**card.encoder_options, **card.decoder_options})
    return here | {
        "smp": (
            "import segmentation_models_pytorch as smp\n"
            "from safetensors.torch import load_file\n\n"
            f'model = smp.{card.decoder}("{card.arch}", encoder_weights=None, '
            f"classes={len(card.classes)}{options})\n"
            'model.load_state_dict(load_file(f"{folder}/best.safetensors"))'
        )
    }


def _options(options: Mapping[str, object]) -> str:
    return "".join(f", {key}={value!r}" for key, value in options.items())
