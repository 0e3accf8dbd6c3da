"""Check whether a training will run here: each check reports what it found, and a remedy if needed.

python -m pretrain.doctor --arch efficientnet-b4 --shards data/shards
accelerate launch -m pretrain.doctor --arch resnet50     also checks communication of the processes

Takes the settings of pretrain/train.py. Exit code 0: it will run; 1: something would stop it.
Importing this needs no torch, so that `--help` is quick.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

from rich.console import Console
from rich.table import Table
from rich.text import Text

from micrograph.cli import program
from micrograph.settings import load_config
from pretrain.config import TrainConfig
from pretrain.doctor.finding import Finding, find_place

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorConfig(TrainConfig):
    """Check whether a training would run here, and how long; takes every setting of training."""

    trial: Annotated[bool, "train a few steps, to estimate memory and time"] = True
    json: Annotated[bool, "print the findings as a JSON list"] = False


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(DoctorConfig, argv)
    from pretrain.doctor.checks import examine  # needs torch, --help does not

    place = find_place()
    findings = examine(config, place, with_trial=config.trial)
    if place.rank == 0:
        if config.json:
            print(json.dumps([asdict(finding) for finding in findings], indent=1))
        else:
            _print(findings)
    if any(finding.level == "fail" for finding in findings):
        sys.exit(1)


def _print(findings: Sequence[Finding]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("")
    table.add_column("found", overflow="fold")
    table.add_column("remedy", overflow="fold")
    for finding in findings:
        found = f"{finding.place}: {finding.found}" if finding.place else finding.found
        level = Text(finding.level, style=_STYLES[finding.level])
        table.add_row(finding.check, level, found, finding.remedy)
    width = None if sys.stdout.isatty() else 160  # for a pipe, rich would assume 80
    Console(highlight=False, markup=False, width=width).print(table)


if __name__ == "__main__":
    main()
