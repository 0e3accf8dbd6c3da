"""Publish a segmenter's network, card and calibration, but no image and no file name.

Imports no torch.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from micrograph.cli import UserError, console, warn
from pretrain.cards.encoder_card import CARD_NAME
from pretrain.cards.segmenter_card import (
    CALIBRATION_NAME,
    DATA_NAME,
    REFERENCE_NAME,
    SEGMENTER_NAME,
    SegmenterCard,
    read_segmenter_card,
)
from pretrain.cards.usage import calibrate_command
from shards.shard_format.schema import SourceInfo, file_sha256

TRAINED_ON = "the training set"  # a source beside those of the encoder
_IMAGES = "ood_scores"  # in calibration.json, by the images' names


def is_segmenter(folder: Path) -> bool:
    """Whether this is a segmenter's folder, finished or not."""
    if (folder / CARD_NAME).is_file():
        return (folder / SEGMENTER_NAME).is_file()
    return (folder / DATA_NAME).is_file()


def copy_segmenter(run: Path, folder: Path, licence: str | None) -> SegmenterCard:
    """Copy a finished segmenter without its card to `folder`; return the card to publish.

    Its sources are those of the encoder and its own images, of `licence`. Raises `UserError` when
    it is not finished, or its files do not belong together.
    """
    card = read_segmenter_card(run)
    folder.mkdir()
    shutil.copyfile(run / SEGMENTER_NAME, folder / SEGMENTER_NAME)
    if file_sha256(folder / SEGMENTER_NAME) != card.sha256:
        raise UserError(f"{run / SEGMENTER_NAME} is not what its {CARD_NAME} describes")
    if not card.adapted:  # only segmenters of one labelled set are calibrated
        _copy_calibration(run, folder, card.sha256)
    return replace(card, sources=_sources(run, card, licence))


def _copy_calibration(run: Path, folder: Path, sha256: str) -> None:
    """The calibration, without the names of the images."""
    path = run / CALIBRATION_NAME
    if not path.is_file():
        console.print(
            f"{run} has no {CALIBRATION_NAME}: users get uncalibrated probabilities and no warning "
            f"of unlike images; run {calibrate_command(run)} before publishing",
            markup=False,
            soft_wrap=True,
        )
        return
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        scores = sorted(content[_IMAGES].values())
        if content["sha256"] != sha256:
            warn(f"{path} is of an earlier network; published without it")
            return
        shutil.copyfile(run / REFERENCE_NAME, folder / REFERENCE_NAME)
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise UserError(
            f"{path} is damaged: {error!r}; run {calibrate_command(run)} again"
        ) from error
    content[_IMAGES] = {f"image {number}": score for number, score in enumerate(scores, 1)}
    (folder / CALIBRATION_NAME).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _sources(run: Path, card: SegmenterCard, licence: str | None) -> tuple[SourceInfo, ...]:
    """Those of the encoder, and its own images; a published segmenter's as stated then."""
    before = [source for source in card.sources if source.name == TRAINED_ON]
    if before and licence is None:
        return card.sources
    samples = before[0].samples if before else _count(run / DATA_NAME)
    own = SourceInfo(
        name=TRAINED_ON, samples=samples, licence=licence, restriction=None, citation=None
    )
    return (*(source for source in card.sources if source.name != TRAINED_ON), own)


def _count(path: Path) -> int:
    """The number of images that training saw; 0 where it is unknown."""
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))["splits"]
        return sum(len(splits.get(split, ())) for split in ("train", "val", "target"))
    except (OSError, ValueError, KeyError, AttributeError):
        return 0
