"""The card of an exported encoder: what its user must know to use it rightly. Imports no torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from micrograph.cli import UserError
from shards.shard_format.schema import SourceInfo, parse_versioned, read_versioned

SCHEMA_VERSION = 1
CARD_NAME = "card.json"
ENCODER_NAME = "encoder.safetensors"
UNPUBLISHED = "unpublished"  # `init` of an encoder that began from one outside any registry


@dataclass(frozen=True, kw_only=True)
class Card:
    """Facts about `encoder.safetensors`; its `mean`, `std` and `channels` bind whoever feeds it."""

    schema_version: int = SCHEMA_VERSION
    arch: str  # smp's name
    timm_name: str
    timm_features: str  # how far timm's features equal smp's with these weights
    # Between them at image_size: largest difference / largest value; None: not known, or maps of
    # another size.
    timm_difference: float | None
    encoder_options: Mapping[str, Any]  # of smp beside the name: smp.Unet(arch, **encoder_options)
    init: str  # random, imagenet, a name in a registry, an export's path, or UNPUBLISHED
    init_tag: str  # the name in smp or timm of the weights that `imagenet` means; else empty
    classes: tuple[str, ...]
    channels: int  # of the corpus: 1 means that grey was repeated to three channels
    mean: tuple[float, ...]  # per channel, for values in [0, 1]
    std: tuple[float, ...]
    image_size: int  # pixels, side of the training crops
    converged: bool  # False: at chance level or one class only; do not use
    metrics: Mapping[str, float]  # of the kept epoch, on the validation split
    # Of each class, the share of its validation images that was recognised: None for a class
    # without any, and for all where only the sum is known.
    class_accuracy: tuple[float | None, ...] | None
    corpus_hash: str
    sources: tuple[SourceInfo, ...]  # of the corpus, each with its licence and restriction
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    sha256: str  # of encoder.safetensors

    decoder: ClassVar[str] = ""  # an encoder has none

    @property
    def quality(self) -> float | None:
        """What encoders of one corpus are ranked by: top-1 accuracy, a share."""
        return self.metrics.get("top1")


def write_card(folder: Path, card: Card) -> None:
    """Write `card.json`."""
    text = json.dumps(asdict(card), indent=1, sort_keys=True) + "\n"
    (folder / CARD_NAME).write_text(text, encoding="utf-8")


def read_card(folder: Path) -> Card:
    """Read `folder/card.json`. Raises `UserError` when it is absent, damaged or of other schema."""
    return read_card_file(folder / CARD_NAME)


def read_card_file(path: Path) -> Card:
    """As `read_card`, of a card under any name."""
    absent = f"no {path.name} in {path.parent}; the encoder cannot be used without it"
    return _card(read_versioned(path, SCHEMA_VERSION, absent=absent), str(path))


def parse_card(text: bytes, where: str) -> Card:
    """As `read_card`, of a card's text that was read from `where`."""
    return _card(parse_versioned(text, where, SCHEMA_VERSION), where)


def _card(content: Mapping[str, Any], where: str) -> Card:
    if "decoder" in content:
        raise UserError(f"{where} is a segmenter's card, not an encoder's")
    try:
        tuples: dict[str, Any] = {key: tuple(content[key]) for key in ("classes", "mean", "std")}
        if content["class_accuracy"] is not None:
            tuples["class_accuracy"] = tuple(content["class_accuracy"])
        sources = tuple(SourceInfo(**source) for source in content["sources"])
        return Card(**{**content, **tuples, "sources": sources})
    except (KeyError, TypeError) as error:
        raise UserError(f"{where} is damaged: {error}") from error
