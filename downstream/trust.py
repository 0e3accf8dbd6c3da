"""When to trust a segmenter: its calibration, and what its labelled images look like to it.

python -m downstream.trust RUN [RUN …]

RUN: the folder of a finished run; of a name in a registry, what was published with it is shown.
Reads the run's own data again. Fits a temperature on the validation images (and tells the error on
the test images, which it has not seen), and keeps the encoder's features of the training and
validation images: downstream.predict uses both. See `downstream.apply.trust_file` for what is left
in the run's folder.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from downstream.apply.calibration import (
    Reliability,
    collect,
    draw_reliability,
    fit_temperature,
    reliability,
)
from downstream.apply.novelty import crop_features, fit_reference, left_out_scores, novelty_limit
from downstream.apply.scan import array_reader
from downstream.apply.trust_file import (
    RELIABILITY_NAME,
    SCHEMA_VERSION,
    Trust,
    read_trust,
    write_trust,
)
from downstream.config import SegmentConfig
from downstream.seg.dataset import LabelledSet, read_labelled_set
from downstream.seg.run_folder import RunPaths
from downstream.seg.segmenter import Segmenter, load_segmenter
from pretrain.registry.pull import find_segmenter, is_published
from pretrain.segmenter_card import TRUST_NAME, read_segmenter_card
from shards.cli import ArgumentParser, UserError, console, program, warn
from shards.settings import build_config, read_recipe

FEW_IMAGES = 6


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description="Calibrate a segmenter and describe its labelled images.")
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="finished run, or a name in a registry to be shown"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of torch [all cores]")
    options = parser.parse_args(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    for name in options.runs:
        run = find_segmenter(name)
        _print(run, published_trust(run, name) if is_published(run) else assess(run))


def published_trust(run: Path, name: str) -> Trust:
    """What was published with a segmenter. Raises `UserError` where that is nothing."""
    trust = read_trust(run, read_segmenter_card(run).sha256)
    if trust is None:
        raise UserError(
            f"{name} was published without {TRUST_NAME}, and its training images are not here; "
            "where they are, run python -m downstream.trust on its run and publish it again"
        )
    return trust


def assess(run: Path) -> Trust:
    """Calibrate a finished run and write its trust files.

    Raises `UserError` where the run is not finished, is of downstream.adapt, or its data cannot be
    read again.
    """
    if read_segmenter_card(run).adapted:
        raise UserError(
            f"{run} is of downstream.adapt, and downstream.trust is for downstream.segment; python "
            f"-m downstream.transfer {run} says whether to trust it on each target"
        )
    segmenter = load_segmenter(run)
    config = build_config(SegmentConfig, read_recipe(RunPaths(run).config))
    data = read_labelled_set(config)
    console.print(f"{run}: calibrating on {len(data.val)} validation images …", markup=False)
    logs, labels = collect(segmenter, data.val)
    temperature = fit_temperature(logs, labels)
    before, after = reliability(logs, labels), reliability(logs, labels, temperature)
    calibration = {"val": _summary(before, after)}
    title = f"{run.name}: {len(data.val)} validation images, temperature {temperature:.2f}"
    if data.test:
        logs, labels = collect(segmenter, data.test)
        before, after = reliability(logs, labels), reliability(logs, labels, temperature)
        calibration["test"] = _summary(before, after)
        title = f"{run.name}: {len(data.test)} test images, temperature {temperature:.2f}"
    draw_reliability(run / RELIABILITY_NAME, before, after, title)
    trust = _with_novelty(run, segmenter, data, config.crop_size, temperature, calibration)
    return trust


def _with_novelty(
    run: Path,
    segmenter: Segmenter,
    data: LabelledSet,
    crop_size: int,
    temperature: float,
    calibration: dict[str, dict[str, float]],
) -> Trust:
    items = {f"train/{item.name}": item for item in data.train}
    items |= {f"val/{item.name}": item for item in data.val}
    features = [
        crop_features(array_reader(name, item.pixels), segmenter, crop_size)
        for name, item in items.items()
    ]
    scores = left_out_scores(features)
    assert segmenter.card is not None  # it comes from a folder
    trust = Trust(
        schema_version=SCHEMA_VERSION,
        sha256=segmenter.card.sha256,
        temperature=temperature,
        calibration=calibration,
        novelty_limit=novelty_limit(scores),
        novelty_scores=dict(zip(items, scores, strict=True)),
    )
    write_trust(run, trust, fit_reference(features))
    return trust


def _summary(before: Reliability, after: Reliability) -> dict[str, float]:
    return {
        "ece_before": before.ece,
        "ece_after": after.ece,
        "nll_before": before.nll,
        "nll_after": after.nll,
    }


def _print(run: Path, trust: Trust) -> None:
    images = len(trust.novelty_scores)
    if images < FEW_IMAGES:
        warn(
            f"{images} labelled images say little of how much such images vary: only what lies "
            f"beyond {trust.novelty_limit / np.median([*trust.novelty_scores.values()]):.1f} times "
            "their own distance will be called unlike them"
        )
    table = Table("", "ECE", "calibrated", "log loss", "calibrated", box=None)
    for split, found in trust.calibration.items():
        table.add_row(
            split,
            f"{found['ece_before']:.2%}",
            f"{found['ece_after']:.2%}",
            f"{found['nll_before']:.4f}",
            f"{found['nll_after']:.4f}",
        )
    Console().print(table)
    print(f"temperature {trust.temperature:.2f}; novelty limit {trust.novelty_limit:.2f}")
    print(run / TRUST_NAME)


if __name__ == "__main__":
    main()
