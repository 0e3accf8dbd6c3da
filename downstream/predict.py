"""Predict masks, with uncertainty maps and out-of-distribution warnings.

python -m downstream.predict RUN [RUN …] IMAGE … --out DIR

RUN: the folder of a finished run, or the name of a segmenter in a registry.
Images may have any size.

OUT/NAME.png              mask with the values and colours of the run's classes
OUT/overlays/NAME.png     image and classes, with a legend (at most 1,024 pixels per side)
OUT/entropy/NAME.png      255 times the entropy
OUT/disagreement/NAME.png 255 times the disagreement of several runs
OUT/probabilities/NAME.npy
OUT/records/NAME.json     phase fractions, warnings, settings; written last
OUT/classes.yaml          meaning of the mask values, for downstream.measure

Images are skipped if they are done and neither they nor the settings or runs have changed.
"""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from downstream.images.blend import Tiling, blended_bands
from downstream.images.prepared import native_bands, open_prepared
from downstream.images.scan import ImageReader, file_stamp
from downstream.inference.arguments import find_images, split_arguments
from downstream.inference.config import PredictConfig
from downstream.inference.ensemble import Ensemble, Member, View, load_members, tta_views
from downstream.inference.legend import Legend, build_legend, write_classes
from downstream.inference.outputs import OutputWriter
from downstream.labels.classes import parse_classes
from downstream.network.receptive_field import has_global_context
from downstream.network.segmenter import STRIDE, Segmenter
from downstream.reliability.calibration_file import read_calibration, read_reference
from downstream.reliability.out_of_distribution import Reference, ood_score
from micrograph.atomic import write_json
from micrograph.cli import UserError, console, program, progress, warn
from micrograph.settings import load_config, to_json
from pretrain.cards.segmenter_card import SegmenterCard, read_segmenter_card
from pretrain.registry.storage.pull import find_segmenter, is_published

RECORDS = "records"
# Settings that do not change the outputs of an image.
_NOT_COMPARED = ("runs", "images", "out", "overwrite", "threads", "batch_size")


@dataclass(frozen=True, slots=True)
class OodDetector:
    """Detects images that are out of the distribution of a run's labelled images."""

    segmenter: Segmenter
    reference: Reference
    limit: float
    crop_size: int

    def score(self, reader: ImageReader) -> float:
        """Above 1: out of distribution."""
        return ood_score(reader, self.segmenter, self.reference, self.crop_size) / self.limit


@dataclass(frozen=True, slots=True)
class Predictor:
    """What is shared by all images."""

    config: PredictConfig
    ensemble: Ensemble
    legend: Legend
    detectors: tuple[OodDetector, ...]
    settings: dict[str, Any]  # those that determine the outputs
    preparation: Mapping[str, Any]  # of images, from the card of an adapted network


@program
def main(argv: Sequence[str] | None = None) -> None:
    runs, images, flags = split_arguments(sys.argv[1:] if argv is None else argv)
    sugar = {name: values for name, values in (("runs", runs), ("images", images)) if values}
    if images and not runs and not any(flag.startswith("--runs") for flag in flags):
        raise UserError(
            f"{images[0]} is not the folder of a finished run (with card.json); give the --run-dir "
            "of downstream.segment or a segmenter's registry name first, then the images"
        )
    config = load_config(PredictConfig, flags, sugar)
    predict(config)


def predict(config: PredictConfig) -> list[Path]:
    """Predict all images that are not done; return the paths of all records.

    Raises `UserError` for images that cannot be read, after all others are done.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    paths = find_images(config.images)
    predictor = open_predictor(config)
    (config.out / RECORDS).mkdir(parents=True, exist_ok=True)
    write_classes(config.out, predictor.legend)
    records, failures, skipped = [], [], 0
    for path in progress(paths, "predict"):
        record = config.out / RECORDS / f"{path.stem}.json"
        try:
            if not config.overwrite and _is_done(record, path, predictor):
                skipped += 1
            else:
                write_json(record, _predict_one(path, predictor))
            records.append(record)
        except UserError as error:
            failures.append(str(error))
            warn(str(error))
    if skipped:
        console.print(
            f"{skipped} of {len(paths)} were already done (--overwrite predicts them again)"
        )
    _print(records)
    if failures:
        raise UserError(f"{len(failures)} of {len(paths)} images failed; the first: {failures[0]}")
    return records


def open_predictor(config: PredictConfig) -> Predictor:
    """Load the runs. Raises `UserError` if one is unfinished, or if their classes differ."""
    runs = [find_segmenter(run) for run in config.runs]
    cards = [read_segmenter_card(run) for run in runs]
    found = [read_calibration(run, card.sha256) for run, card in zip(runs, cards, strict=True)]
    for run, calibration, card in zip(runs, found, cards, strict=True):
        if calibration is None:
            hint = f"; python -m downstream.calibrate {run} adds both"
            console.print(
                f"{run}: probabilities are not calibrated, and unusual images are not detected"
                f"{'' if card.adapted or is_published(run) else hint}",
                markup=False,
            )
    temperatures = [calibration.temperature if calibration else 1.0 for calibration in found]
    members = load_members(runs, temperatures)
    _report_global_context(config, members, cards)
    # The flips and rotations that all runs were trained with.
    orientation = "any" if all(card.orientation == "any" for card in cards) else "hflip"
    views = tta_views(orientation) if config.tta else [View()]
    legend = build_legend(parse_classes(cards[0].classes))
    Tiling(config.tile, config.overlap, STRIDE).axes(STRIDE, STRIDE)  # raises for invalid sizes
    detectors = [
        OodDetector(member.segmenter, read_reference(run), calibration.ood_limit, card.crop_size)
        for run, member, calibration, card in zip(runs, members, found, cards, strict=True)
        if calibration is not None
    ]
    settings = {k: v for k, v in to_json(config).items() if k not in _NOT_COMPARED}
    settings["members"] = [
        [card.sha256, temperature] for card, temperature in zip(cards, temperatures, strict=True)
    ]
    ensemble = Ensemble(members, len(legend.classes), views)
    if done := cards[0].spelled_preparation:
        console.print(f"images are prepared as in training: {done}", markup=False)
    return Predictor(config, ensemble, legend, tuple(detectors), settings, cards[0].preparation)


def _report_global_context(
    config: PredictConfig, members: Sequence[Member], cards: Sequence[SegmenterCard]
) -> None:
    """Report networks whose result depends on the tile size for any overlap."""
    for run, member, card in zip(config.runs, members, cards, strict=True):
        if not has_global_context(member.segmenter.model):
            continue
        network = f"{run} ({card.decoder} on {card.arch})"
        if config.tile < card.crop_size:
            warn(
                f"{network} uses context from the whole tile and was trained on larger crops: use "
                f"--tile {card.crop_size} or more, not {config.tile}"
            )
        else:
            console.print(
                f"{network} uses context from the whole tile, so its masks depend on the tile "
                "size: always use the same --tile",
                markup=False,
                soft_wrap=True,
            )


def _is_done(record: Path, path: Path, predictor: Predictor) -> bool:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    mask = record.parents[1] / str(content.get("mask"))
    same = content.get("settings") == predictor.settings
    return bool(same and content.get("stamp") == file_stamp(path) and mask.is_file())


def _predict_one(path: Path, predictor: Predictor) -> dict[str, Any]:
    """Predict one image, write its files and return its record."""
    began = time.monotonic()
    config, ensemble, legend = predictor.config, predictor.ensemble, predictor.legend
    stamp = file_stamp(path)
    whole, reader = open_prepared(path, predictor.preparation, crop_bar=config.crop_bar)
    scores = [detector.score(reader) for detector in predictor.detectors]
    ensemble.reset_fractions()
    tiling = Tiling(config.tile, config.overlap, STRIDE, config.batch_size)
    members = len(predictor.settings["members"])
    with OutputWriter(config, whole, legend, members) as writer:
        bands = blended_bands(reader, ensemble, ensemble.channels, tiling)
        for band in native_bands(bands, reader.shape, whole.shape):
            writer.add(band.top, band.maps)
        totals = writer.finish()
        mask = writer.mask_name
    warnings = []
    if (distance := max(scores, default=math.nan)) > 1:
        warnings.append(
            f"is unlike the labelled images ({distance:.1f} times the usual distance): "
            "check its overlay before using its numbers"
        )
        warn(f"{path.name}: {warnings[0]}")
    pixels = whole.height * whole.width
    return {
        "image": str(path),
        "mask": mask,
        "size": [whole.width, whole.height],
        "notes": list(whole.notes),
        "classes": list(legend.names),
        "fractions": [int(count) / pixels for count in totals.counts],
        "member_fractions": ensemble.fractions.tolist(),  # mean probabilities
        "mean_entropy": totals.entropy,
        "mean_disagreement": totals.disagreement if members > 1 else None,
        "ood_score": distance,
        "warnings": warnings,
        "seconds": round(time.monotonic() - began, 1),
        "stamp": stamp,
        "settings": predictor.settings,
    }


def _print(records: Sequence[Path], shown: int = 20) -> None:
    if not records:
        return
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in records[:shown]]
    table = Table("image", *contents[0]["classes"], "entropy", "OOD score", box=None)
    for content in contents:
        ood = content["ood_score"]
        table.add_row(
            Path(content["image"]).name,
            *(f"{share:.2%}" for share in content["fractions"]),
            f"{content['mean_entropy']:.3f}",
            "" if ood is None else f"{ood:.2f}",
        )
    Console().print(table)
    if len(records) > shown:
        print(f"… and {len(records) - shown} more")
    print(records[0].parents[1])


if __name__ == "__main__":
    main()
