"""Can a segmenter be trusted on a new domain? Trust, adapt or label, without that domain's labels.

python -m downstream.transfer RUN [RUN …] [--target T1 …] [--out DIR]

Runs are those of downstream.adapt, best the folds of one experiment. Each learns from rehearsals on
its source's validation images what its own failing looks like (`downstream.uda.transfer`).

OUT/transfer.md     the verdicts and their reasons
OUT/transfer.png    distances, mIoU to expect, phase fractions with intervals
OUT/images.csv      every image: distances, certainty, disagreement, phase fractions
OUT/transfer.json   all of it

Labels of the target's test images, where there are any, only say in the end how it truly is.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from downstream.apply.inputs import leading_arguments
from downstream.uda.domains import DomainStudy
from downstream.uda.prepare import PreparedImage, prepare_target
from downstream.uda.transfer.config import TransferConfig
from downstream.uda.transfer.figure import draw_report
from downstream.uda.transfer.files import PAGE_NAME, write_files
from downstream.uda.transfer.observers import open_observers, study_of
from downstream.uda.transfer.report import DomainReport, report_domain
from shards.cli import console, program
from shards.settings import load_config

FIGURE_NAME = "transfer.png"


@program
def main(argv: Sequence[str] | None = None) -> None:
    given, flags = leading_arguments(sys.argv[1:] if argv is None else argv)
    config = load_config(TransferConfig, flags, {"runs": given} if given else {})
    domains = transfer(config)
    _print(domains)
    print(_folder(config) / PAGE_NAME)


def transfer(config: TransferConfig) -> list[DomainReport]:
    """Judge the targets and write the report. Raises `UserError` as `open_observers` does."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    observers = open_observers(
        config.runs,
        config.rehearsals,
        config.seed,
        config.batch_size,
        config.study,
        config.data,
    )
    study = study_of(observers)
    names = config.target or tuple(study.targets)
    domains = []
    for name in names:
        images = target_images(study, name)
        console.print(f"{name}: {len(images)} images …", markup=False)
        domains.append(report_domain(name, observers, images, config.tolerance, config.confidence))
    out = _folder(config)
    out.mkdir(parents=True, exist_ok=True)
    draw_report(observers, domains, config.tolerance, out / FIGURE_NAME)
    write_files(out, config, observers, domains)
    return domains


def target_images(study: DomainStudy, name: str) -> tuple[PreparedImage, ...]:
    """All images of a target, each once, with its label where it is a test image."""
    found = prepare_target(study, name)
    # Folders may give one name to two images, and one image may be both trained on and tested.
    images = {(image.name, image.pixels.tobytes()): image for image in found.train}
    images |= {(image.name, image.pixels.tobytes()): image for image in found.test}
    return tuple(images.values())


def _folder(config: TransferConfig) -> Path:
    return config.out or config.runs[0] / "transfer"


def _print(domains: Sequence[DomainReport]) -> None:
    table = Table("target", "advice", "expected mIoU", "source", "features", "statistics", box=None)
    for domain in domains:
        table.add_row(
            domain.name,
            domain.verdict.advice,
            f"{domain.expected.miou:.1%}",
            f"{domain.expected.source_miou:.1%}",
            f"{domain.signs.features:.1f} x",
            f"{domain.signs.batchnorm:.1f} x",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
