"""All checks of the doctor, in their order."""

from collections.abc import Callable
from dataclasses import replace

import torch.distributed

from micrograph.cli import UserError, console
from pretrain.config import TrainConfig
from pretrain.doctor import inputs, machine, trial
from pretrain.doctor.finding import Finding, Place

Check = Callable[[TrainConfig, Place], list[Finding]]

CHECKS: dict[str, Check] = {
    "GPU": machine.check_gpu,
    "DALI": machine.check_dali,
    "cores": machine.check_cores,
    "port": machine.check_port,
    "processes": machine.check_processes,
    "shards": inputs.check_shards,
    "decoder": inputs.check_decoder,
    "init": inputs.check_init,
    "run folder": inputs.check_run_folder,
}


def examine(config: TrainConfig, place: Place, *, with_trial: bool = True) -> list[Finding]:
    """All findings of this process, and the warnings and failures of the others.

    Leaves the group of the processes.
    """
    try:
        return _examine(config, place, with_trial)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _examine(config: TrainConfig, place: Place, with_trial: bool) -> list[Finding]:
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        known = {finding.found for finding in findings}  # missing shards fail several checks
        findings += [f for f in _run(name, check, config, place) if f.found not in known]
    findings = _gather(findings, place)
    if not with_trial:
        return findings
    if failed := sorted({finding.check for finding in findings if finding.level == "fail"}):
        found = f"not tried, because a check failed: {', '.join(failed)}"
        return [*findings, Finding(found=found, level="warn", check="training")]
    if place.rank == 0:
        console.print("training a few steps, to measure memory and time …")
    return findings + _run("training", trial.check_training, config, place)


def _run(name: str, check: Check, config: TrainConfig, place: Place) -> list[Finding]:
    try:
        return [replace(f, check=f.check or name) for f in check(config, place)]
    except Exception as error:  # it would have stopped the training as well
        return [Finding(check=name, found=_explain(error), level="fail")]


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # The message of a `UserError` contains the remedy.
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
