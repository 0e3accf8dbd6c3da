"""The card of a segmenter: what its user must know to use it rightly. Imports no torch.

The programs that fine-tune segmenters write it; a registry lists and checks them, too.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from micrograph.atomic import write_atomically
from micrograph.cli import UserError
from pretrain.cards.encoder_card import CARD_NAME
from shards.shard_format.schema import SourceInfo, parse_versioned, read_versioned

SCHEMA_VERSION = 1
SEGMENTER_NAME = "best.safetensors"
DATA_NAME = "data.json"  # beside it in a run's folder: the images of each split
# Calibration, and what detects out-of-distribution images.
CALIBRATION_NAME = "calibration.json"
REFERENCE_NAME = "ood_reference.safetensors"


@dataclass(frozen=True, kw_only=True)
class SegmenterCard:
    """Facts about `best.safetensors`; `mean` and `std` bind whoever feeds it."""

    schema_version: int = SCHEMA_VERSION
    decoder: str  # smp's class, or DeepLabV2
    decoder_options: Mapping[str, Any] = field(default_factory=dict)
    arch: str  # smp's name of the encoder
    encoder_options: Mapping[str, Any]  # of smp beside the name
    init: str  # as it was given: random, imagenet, a path or a name; or UNPUBLISHED
    encoder_sha256: str  # of the file that it began from; else empty
    classes: tuple[str, ...]  # as --classes takes them, in the order of the channels
    mean: tuple[float, ...]  # per channel, for values in [0, 1]
    std: tuple[float, ...]
    crop_size: int  # pixels
    orientation: str  # whether up has a meaning: what may be flipped at test time
    micro_iou_classes: str
    converged: bool  # False: collapsed, see `collapse`; do not use
    collapse: str
    metrics: Mapping[str, float | None]  # of the kept epoch, on the validation images
    # Of the encoder's corpus: a restriction is not trained away. Of a published one, its own
    # training images too.
    sources: tuple[SourceInfo, ...]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    sha256: str  # of best.safetensors
    # What adaptation did to its images before the network saw them; none: taken as files have them.
    preparation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def quality(self) -> float | None:
        """What segmenters of the same images are ranked by: micro IoU, a share."""
        return self.metrics.get("micro_iou")

    @property
    def adapted(self) -> bool:
        """Whether domain adaptation made it, so that it has domains instead of a labelled set."""
        return "method" in self.config

    @property
    def spelled_preparation(self) -> str:
        """`preparation` for people; empty where there is none."""
        values = {k: f"{v:.4g}" if type(v) is float else v for k, v in self.preparation.items()}
        return ", ".join(f"{name} {value}" for name, value in values.items())

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(spec.partition("=")[0] for spec in self.classes)


def write_segmenter_card(folder: Path, card: SegmenterCard) -> None:
    """Write `card.json`; a metric that is nan, which JSON lacks, becomes null."""
    metrics = {
        k: v if v is not None and math.isfinite(v) else None for k, v in card.metrics.items()
    }
    text = json.dumps(asdict(card) | {"metrics": metrics}, indent=1) + "\n"
    write_atomically(folder / CARD_NAME, text.encode())


def read_segmenter_card(folder: Path) -> SegmenterCard:
    """Read `folder/card.json`. Raises `UserError`: absent, damaged, or an encoder's."""
    path = folder / CARD_NAME
    absent = f"no {path.name} in {folder}; is it a finished run of a segmenter?"
    return _card(read_versioned(path, SCHEMA_VERSION, absent=absent), str(path))


def parse_segmenter_card(text: bytes, where: str) -> SegmenterCard:
    """As `read_segmenter_card`, of a card's text that was read from `where`."""
    return _card(parse_versioned(text, where, SCHEMA_VERSION), where)


def _card(content: Mapping[str, Any], where: str) -> SegmenterCard:
    try:
        tuples = {key: tuple(content[key]) for key in ("classes", "mean", "std")}
        sources = tuple(SourceInfo(**source) for source in content["sources"])
        return SegmenterCard(**{**content, **tuples, "sources": sources})
    except (KeyError, TypeError) as error:
        raise UserError(f"{where} is damaged: {error}") from error
