"""Calibrate a segmenter's probabilities, and describe which images it was trained for.

python -m downstream.calibrate RUN [RUN …]       RUN: the folder of a finished run

Reads the run's data again. Fits a temperature on the validation images, reports the calibration
error also on the test images, and stores the encoder's features of training and validation images.
downstream.predict uses both. `downstream.reliability.calibration_file` lists the files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from downstream.finetune.config import SegmentConfig
from downstream.finetune.labelled_set import read_labelled_set
from downstream.images.scan import array_reader
from downstream.network.segmenter import load_segmenter
from downstream.reliability.calibration import (
    collect,
    draw_reliability,
    fit_temperature,
    reliability,
)
from downstream.reliability.calibration_file import (
    RELIABILITY_NAME,
    Calibration,
    write_calibration,
)
from downstream.reliability.out_of_distribution import (
    crop_features,
    fit_reference,
    leave_one_out_scores,
    ood_limit,
)
from micrograph.cli import UserError, console, program, warn
from micrograph.settings import Positional, build_config, load_config, read_recipe
from pretrain.cards.segmenter_card import CALIBRATION_NAME, read_segmenter_card
from pretrain.registry.storage.pull import is_published
from pretrain.runs.run_folder import RunPaths

MIN_IMAGES = 6  # with fewer labelled images, the out-of-distribution limit is wide


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateConfig:
    """Calibrate a segmenter and describe its labelled images."""

    runs: Annotated[tuple[Path, ...], Positional, "folders of finished runs"]
    threads: Annotated[int | None, "CPU threads of torch [all cores]"] = None


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(CalibrateConfig, argv)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    for run in config.runs:
        _print(run, calibrate(run))


def calibrate(run: Path) -> Calibration:
    """Calibrate a finished run and write its calibration files.

    Raises `UserError` if the run is not finished, published or of downstream.adapt, and if its data
    is missing.
    """
    if is_published(run):
        raise UserError(
            f"{run} is published and must not change; calibrate its run, then publish it"
        )
    if read_segmenter_card(run).adapted:
        raise UserError(
            f"{run} is of downstream.adapt, but only runs of downstream.segment can be calibrated; "
            f"python -m downstream.shift_report {run} measures how far its targets are"
        )
    segmenter = load_segmenter(run)
    assert segmenter.card is not None  # it comes from a folder
    config = build_config(SegmentConfig, read_recipe(RunPaths(run).config))
    data = read_labelled_set(config)
    console.print(f"{run}: calibrating on {len(data.val)} validation images …", markup=False)
    pixels = {"val": collect(segmenter, data.val)}
    temperature = fit_temperature(*pixels["val"])
    if data.test:
        pixels["test"] = collect(segmenter, data.test)
    errors = {}
    for split, (logs, labels) in pixels.items():
        before, after = reliability(logs, labels), reliability(logs, labels, temperature)
        errors[split] = {
            **{"ece_before": before.ece, "ece_after": after.ece},
            **{"nll_before": before.nll, "nll_after": after.nll},
        }
    shown = f"{len(data.test)} test" if data.test else f"{len(data.val)} validation"
    title = f"{run.name}: {shown} images, temperature {temperature:.2f}"
    draw_reliability(run / RELIABILITY_NAME, before, after, title)
    labelled = {f"train/{item.name}": item for item in data.train}
    labelled |= {f"val/{item.name}": item for item in data.val}
    features = [
        crop_features(array_reader(name, item.pixels), segmenter, config.crop_size)
        for name, item in labelled.items()
    ]
    scores = leave_one_out_scores(features)
    calibration = Calibration(
        sha256=segmenter.card.sha256,
        temperature=temperature,
        errors=errors,
        ood_limit=ood_limit(scores),
        ood_scores=dict(zip(labelled, scores, strict=True)),
    )
    write_calibration(run, calibration, fit_reference(features))
    return calibration


def _print(run: Path, calibration: Calibration) -> None:
    images = len(calibration.ood_scores)
    if images < MIN_IMAGES:
        factor = calibration.ood_limit / np.median([*calibration.ood_scores.values()])
        warn(
            f"{images} labelled images are few: only images farther than {factor:.1f} times their "
            "own distance will be reported as out of distribution"
        )
    table = Table("", "ECE", "calibrated", "NLL", "calibrated", box=None)
    for split, found in calibration.errors.items():
        table.add_row(
            split,
            f"{found['ece_before']:.2%}",
            f"{found['ece_after']:.2%}",
            f"{found['nll_before']:.4f}",
            f"{found['nll_after']:.4f}",
        )
    Console().print(table)
    temperature, limit = calibration.temperature, calibration.ood_limit
    print(f"temperature {temperature:.2f}; out-of-distribution limit {limit:.2f}")
    print(run / CALIBRATION_NAME)


if __name__ == "__main__":
    main()
