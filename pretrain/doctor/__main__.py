"""Will this training run here? Every check says what it found and, if need be, the remedy.

python -m pretrain.doctor --arch efficientnet-b4 --shards data/shards
accelerate launch -m pretrain.doctor --arch resnet50          also whether processes find each other

Takes the settings of pretrain/train.py. Exit code 0: it will run; 1: something would end it.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import torch.distributed
from rich.console import Console
from rich.table import Table

from pretrain.config import TrainConfig
from pretrain.doctor import machine, material, trial
from pretrain.doctor.finding import Finding, Place, find_place
from shards.cli import UserError, console, program
from shards.settings import load_config

Check = Callable[[TrainConfig, Place], Iterator[Finding]]

# In this order. What trains a little comes last, and only if nothing failed before.
CHECKS: dict[str, Check] = {
    "GPU": machine.check_gpu,
    "DALI": machine.check_dali,
    "cores": machine.check_cores,
    "shared memory": machine.check_shared_memory,
    "open files": machine.check_limits,
    "port": machine.check_port,
    "processes": machine.check_processes,
    "shards": material.check_shards,
    "decoder": material.check_decoder,
    "init": material.check_init,
    "run folder": material.check_run_folder,
    "wandb": material.check_wandb,
}
TRIALS: dict[str, Check] = {"training": trial.check_training}

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorConfig(TrainConfig):
    """Check whether a training would run here, and how long; takes every setting of training."""

    trial: Annotated[bool, "train a few steps, to estimate memory and time"] = True
    json: Annotated[bool, "print the findings as a JSON list"] = False


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(DoctorConfig, argv)
    place = find_place()
    findings = examine(config, place, with_trial=config.trial)
    if place.rank == 0:
        if config.json:
            print(json.dumps([asdict(finding) for finding in findings], indent=1))
        else:
            _print(findings)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if any(finding.level == "fail" for finding in findings):
        sys.exit(1)


def examine(config: TrainConfig, place: Place, *, with_trial: bool = True) -> list[Finding]:
    """All findings; where processes found each other, those of all of them that are not `ok`."""
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        known = {finding.found for finding in findings}  # what is not there ends several checks
        findings += [f for f in _run(name, check, config, place) if f.found not in known]
    findings = _gather(findings, place)
    if not with_trial:
        return findings
    if failed := sorted({finding.check for finding in findings if finding.level == "fail"}):
        found = f"not tried, since a check failed: {', '.join(failed)}"
        return [*findings, Finding(check="training", found=found, level="warn")]
    if place.rank == 0:
        console.print("training a little, to see memory and time …")
    for name, check in TRIALS.items():
        findings += _run(name, check, config, place)
    return findings


def _run(name: str, check: Check, config: TrainConfig, place: Place) -> list[Finding]:
    findings: list[Finding] = []
    try:
        findings.extend(check(config, place))
    except Exception as error:  # whatever it is, it would have ended the training as well
        findings.append(Finding(check=name, found=_explain(error), level="fail"))
    return findings


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # A `UserError` is meant to be read and names its remedy itself.
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _gather(findings: list[Finding], place: Place) -> list[Finding]:
    if not torch.distributed.is_initialized():
        return findings
    mine = [
        replace(finding, place=f"process {place.rank} on {place.host}")
        for finding in findings
        if finding.level != "ok"
    ]
    gathered: list[list[Finding]] = [[] for _ in range(place.world)]
    torch.distributed.all_gather_object(gathered, mine)
    known = {(finding.check, finding.found) for finding in findings}
    others = [finding for part in gathered for finding in part]
    return findings + [f for f in others if (f.check, f.found) not in known]


def _print(findings: Sequence[Finding]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("")
    table.add_column("found", overflow="fold")
    table.add_column("remedy", overflow="fold")
    for finding in findings:
        found = f"{finding.place}: {finding.found}" if finding.place else finding.found
        level = f"[{_STYLES[finding.level]}]{finding.level}[/]"
        table.add_row(finding.check, level, _plain(found), _plain(finding.remedy))
    out = Console(highlight=False)
    (out if out.is_terminal else Console(highlight=False, width=160)).print(table)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")  # rich would take it for markup


if __name__ == "__main__":
    main()
