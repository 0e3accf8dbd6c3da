"""Measure how far the target domains of a study are from the source of a segmenter.

python -m downstream.shift_report RUN [--target T1 …]

Reports two signals per target that need no labels (`downstream.adaptation.shift_signals`), and
which of them exceed the limits beyond which drawn shifts cost more than 5 points of mIoU. Both are
hints: their measured hit rates are printed with them.

RUN/shift_report.json   the signals of each target and of each of its images
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from rich.console import Console
from rich.table import Table

from downstream.adaptation.build import read_data
from downstream.adaptation.config import AdaptConfig
from downstream.adaptation.shift_signals import (
    SIGNAL_NAMES,
    Source,
    describe_source,
    mean_signals,
    measure_shift,
)
from downstream.domains.prepare import PreparedImage, prepare_target
from downstream.domains.study import DomainStudy
from downstream.network.segmenter import load_segmenter
from micrograph.atomic import write_json
from micrograph.cli import UserError, console, program
from micrograph.settings import Positional, build_config, load_config, read_recipe
from pretrain.runs.run_folder import RunPaths

REPORT_NAME = "shift_report.json"
SCHEMA_VERSION = 1
MIN_SOURCE_IMAGES = 3
# Measured by benchmarks/bench_shift.py: limits chosen on 16 drawn shifts, hit rates on 16 others,
# each by two networks. A hit is right about whether the loss exceeds 5 points of mIoU. With 32
# cases neither is surely better than a constant answer (Wilson's 95 %: 65 to 91, 72 to 95 %).
CASES = 32
LIMITS = {"feature_distance": 1.21, "changed_pixels": 0.16}
HIT_RATES = {"feature_distance": 0.81, "changed_pixels": 0.88}
CONSTANT_HIT_RATE = 0.78  # of the same answer for every shift


@dataclass(frozen=True, kw_only=True, slots=True)
class ShiftReportConfig:
    """Report how far target domains are from the source of a segmenter, without labels."""

    run: Annotated[Path, Positional, "folder of a finished run of downstream.adapt"]
    target: Annotated[tuple[str, ...], "targets of the study [all]"] = ()
    study: Annotated[Path | None, "study file, if it moved or names new targets"] = None
    data: Annotated[Path | None, "data folder of the study, if it moved"] = None
    batch_size: Annotated[int, "tiles per forward pass"] = 8
    threads: Annotated[int | None, "CPU threads of torch [all cores]"] = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(ShiftReportConfig, argv)
    _print(report_shifts(config))
    print(config.run / REPORT_NAME)


def report_shifts(config: ShiftReportConfig) -> dict[str, Any]:
    """Measure all images of the targets and write `shift_report.json`; returns its content.

    Raises `UserError` for a run that is not of downstream.adapt, and for missing images.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    source = open_source(config.run, config.study, config.data, config.batch_size)
    domains = {
        name: target_images(source.study, name) for name in config.target or source.study.targets
    }
    targets = {}
    for name, images in domains.items():
        console.print(f"{name}: {len(images)} images …", markup=False)
        signals = measure_shift(source, images)
        rows = zip(images, signals, strict=True)
        targets[name] = asdict(mean_signals(signals)) | {
            "images": [{"name": image.name} | asdict(own) for image, own in rows]
        }
    report = {
        "schema_version": SCHEMA_VERSION,
        "limits": LIMITS,
        "hit_rates": HIT_RATES | {"constant_answer": CONSTANT_HIT_RATE},
        "targets": targets,
    }
    write_json(config.run / REPORT_NAME, report)
    return report


def open_source(run: Path, study: Path | None, data: Path | None, batch_size: int) -> Source:
    """Load a run and describe its source; `study` and `data` override its settings.

    Raises `UserError` as `report_shifts` does.
    """
    path = RunPaths(run).config
    if not path.is_file():
        raise UserError(f"no {path.name} in {run}; give the --run-dir of downstream.adapt")
    values = read_recipe(path)
    if "study" not in values:
        raise UserError(f"{run} is not a run of downstream.adapt: its {path.name} has no study")
    config = build_config(AdaptConfig, values)
    config = replace(config, study=study or config.study, data=data or config.data)
    if not config.study.is_file():
        raise UserError(f"no study file {config.study}; give its path with --study")
    images = read_data(config)
    if (count := len(images.train) + len(images.val)) < MIN_SOURCE_IMAGES:
        raise UserError(f"{run} has {count} source images; needs at least {MIN_SOURCE_IMAGES}")
    return describe_source(load_segmenter(run), images.study, images.train, images.val, batch_size)


def target_images(study: DomainStudy, name: str) -> tuple[PreparedImage, ...]:
    """All images of a target, each once."""
    target = prepare_target(study, name)
    # Two folders may use one name, and one image may serve both training and testing.
    images = {(image.name, image.pixels.tobytes()): image for image in target.train + target.test}
    return tuple(images.values())


def _print(report: dict[str, Any]) -> None:
    titles = {name: name.replace("_", " ") for name in SIGNAL_NAMES}
    table = Table("target", "images", *titles.values(), box=None)
    for target, found in report["targets"].items():
        cells = [_cell(name, found[name]) for name in SIGNAL_NAMES]
        table.add_row(target, str(len(found["images"])), *cells)
    Console().print(table)
    print("* above its limit: the target probably costs more than 5 points of mIoU")
    for name, title in titles.items():
        limit, rate = LIMITS[name], HIT_RATES[name]
        print(f"{title}: limit {limit}, right on {rate:.0%} of {CASES} drawn shifts")
    print(f"(always the same answer: {CONSTANT_HIT_RATE:.0%})")


def _cell(name: str, value: float) -> str:
    if math.isnan(value):
        return "no batch norm"
    return f"{value:.2f}{' *' if value > LIMITS[name] else ''}"


if __name__ == "__main__":
    main()
