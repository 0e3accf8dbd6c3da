"""An error or a stop request in one of two processes ends both."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR1
from typing import Any

import pytest
import torch
from checkout import ROOT
from damage import overwrite
from safetensors.torch import load_file
from training_runs import newest, position
from waiting import wait_for

from micrograph.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR
from pretrain.loading.sample_order import EpochSampler
from pretrain.runs.checkpoint import list_checkpoints
from pretrain.runs.phases import Phase
from pretrain.runs.run_folder import RunPaths
from pretrain.runs.status import read_status
from shards.shard_format.schema import read_index, read_manifest

STEPS = 9  # of an epoch


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--shards", "absent", "python -m shards.write"),
        ("--run-dir", "damaged", "no checkpoint in"),  # found when it resumes
        ("--run-dir", "empty", "has no state to roll back to"),  # when it has diverged
    ],
)
def test_an_error_of_one_process_ends_both_and_is_printed_once(
    tiny: list[str], tmp_path: Path, fork_server: Any, flag: str, value: str, message: str
) -> None:
    checkpoints = RunPaths(tmp_path / "damaged").checkpoints
    checkpoints.mkdir(parents=True)
    (checkpoints / "state-0000000000-0123456789abcdef.pt").write_bytes(b"garbage")
    run, before = tmp_path / "run", _log_size(fork_server)
    argv = [*tiny, "--run-dir", str(run), "--device", "cpu", "--lr", "1e3"]
    fork_server.start(argv, world=2, last=[flag, str(tmp_path / value)])
    assert fork_server.wait() == [EXIT_USER_ERROR] * 2
    errors = [line for line in _log(fork_server, before) if line.startswith("error:")]
    assert len(errors) == 1 and message in errors[0], errors
    status = read_status(run)
    if flag == "--run-dir":  # the first has opened its folder
        assert status is not None
        assert (status.state, status.reason) == ("failed", "another process failed")


@pytest.mark.parametrize(("split", "saved"), [("train", 3), ("val", 0)])
def test_an_image_that_one_process_cannot_decode_ends_both(
    tiny: list[str], shards: Path, tmp_path: Path, fork_server: Any, split: str, saved: int
) -> None:
    sampler = EpochSampler(samples=48, batch_size=8, micro_batch_size=4, seed=0)
    # The second process's first image of the fourth step, and of validation.
    sample = sampler.micro_batches(sampler.epoch_batches(0)[3], 2)[1][0] if split == "train" else 1
    run, before, bad = tmp_path / "run", _log_size(fork_server), tmp_path / "bad"
    shutil.copytree(shards, bad)
    row = read_index(bad, split)[sample]
    shard = bad / read_manifest(bad).splits[split].shards[row["shard"]].name
    overwrite(shard, int(row["offset"]) + 40, b"garbage" * 20)  # after the header
    argv = [*tiny, "--run-dir", str(run), "--device", "cpu"]
    fork_server.start(argv, world=2, last=["--shards", str(bad)])
    assert fork_server.wait() == [EXIT_USER_ERROR] * 2
    errors = [line for line in _log(fork_server, before) if "rror" in line]
    assert len(errors) == 1, errors
    assert f"{shard} has a damaged image at byte {row['offset']}" in errors[0]
    assert f"python -m shards.verify {bad}" in errors[0]
    assert position(run) == (0, saved)
    status = read_status(run)
    assert status is not None and status.reason == "another process failed"


@dataclass(frozen=True)
class Stop:
    """A stop request to one process, and the checkpoint it leaves."""

    rank: int
    phase: Phase  # at whose beginning it is asked
    saved: tuple[int, int] | None  # epoch and step of the checkpoint
    call: int = 1


STOPS = [
    Stop(1, "read_data", None),  # before the run has opened its folder
    Stop(0, "build", None),
    Stop(1, "plan", (0, 0)),  # the warm-up ends: a checkpoint of no step
    Stop(0, "validate", (0, STEPS)),  # all steps are done, and not yet the validation
    Stop(0, "build", (0, STEPS)),
    Stop(1, "step", (1, 4), call=4),
    Stop(1, "validate", (1, STEPS)),
]


@pytest.mark.slow
def test_a_stop_request_stops_both_in_every_part_of_a_run(
    even: list[str], tmp_path: Path, fork_server: Any
) -> None:
    flags = [*even, "--micro-batch-size", "2", "--epochs", "3", "--patience", "3"]
    flags += ["--ema-epochs", "1"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    fork_server.start([*flags, "--run-dir", str(whole)], world=2)
    assert fork_server.wait() == [0, 0], _log(fork_server)
    for number, stop in enumerate(STOPS):
        sent = SIGUSR1 if number % 2 else SIGTERM
        asked = (stop.rank, stop.phase, stop.call, sent)
        fork_server.start([*flags, "--run-dir", str(stopped)], world=2, stops=asked)
        assert fork_server.wait() == [EXIT_INTERRUPTED] * 2, (stop, _log(fork_server))
        status = read_status(stopped)
        assert status is not None and status.state == "interrupted", (stop, status)
        assert position(stopped) == stop.saved, stop
    fork_server.start([*flags, "--run-dir", str(stopped)], world=2)
    assert fork_server.wait() == [0, 0], _log(fork_server)
    one, other = newest(whole), newest(stopped)
    assert one[0] == other[0]
    torch.testing.assert_close(other[1]["optimizer"], one[1]["optimizer"], rtol=0, atol=0)
    _assert_equal_weights(other[1]["model"], one[1]["model"])
    _assert_equal_weights(other[1]["ema"], one[1]["ema"])
    _assert_equal_weights(*(load_file(RunPaths(run).best) for run in (stopped, whole)))


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_the_run_resumes_exactly(
    even: list[str], tmp_path: Path, fork_server: Any
) -> None:
    flags = [*even, "--micro-batch-size", "4", "--epochs", "3", "--patience", "3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    fork_server.start([*flags, "--run-dir", str(whole)], world=2)
    assert fork_server.wait() == [0, 0], _log(fork_server)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launch += [str(ROOT / "pretrain" / "train.py"), *flags, "--run-dir", str(killed)]
    with (tmp_path / "launched.log").open("w") as log:
        launcher = subprocess.Popen(
            [*launch, "--checkpoint-minutes", "1e-6"],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    checkpoints = RunPaths(killed).checkpoints
    wait_for(lambda: len(list_checkpoints(checkpoints)) == 2 or launcher.poll() is not None)
    (second,) = [pid for pid in _children(launcher.pid) if _rank(pid) == "1"]
    os.kill(second, SIGKILL)
    struck = time.monotonic()
    assert launcher.wait(timeout=120) != 0
    print(f"the job ended {time.monotonic() - struck:.1f} s after one of its processes was killed")
    with RunPaths(killed).lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no trainer is left
    assert newest(killed)[0].epoch < 3
    fork_server.start([*flags, "--run-dir", str(killed)], world=2)
    assert fork_server.wait() == [0, 0], _log(fork_server)
    one, other = newest(whole), newest(killed)
    assert one[0] == other[0]
    _assert_equal_weights(other[1]["model"], one[1]["model"])


def _children(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def _rank(process: int) -> str:
    """The rank of a launcher's trainer; empty for another process."""
    entries = Path(f"/proc/{process}/environ").read_text().split("\0")
    return next((e.removeprefix("RANK=") for e in entries if e.startswith("RANK=")), "")


def _assert_equal_weights(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> None:
    """Bit for bit; but running statistics, averaged once more at each stop, to within rounding."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        rounding = 1e-6 if "running_" in name else 0.0
        torch.testing.assert_close(found[name], tensor, rtol=rounding, atol=rounding)


def _log_size(fork_server: Any) -> int:
    return fork_server.log.stat().st_size if fork_server.log.exists() else 0


def _log(fork_server: Any, start: int = 0) -> list[str]:
    return fork_server.log.read_bytes()[start:].decode().splitlines()  # type: ignore[no-any-return]
