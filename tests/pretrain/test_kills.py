"""A run killed and stopped thirty times ends bit for bit like an uninterrupted one."""

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any, Literal

import pytest
import torch
from checkout import ROOT
from training_runs import numbers
from waiting import wait_for

from micrograph.cli import EXIT_INTERRUPTED
from pretrain.runs.checkpoint import list_checkpoints, load_checkpoint
from pretrain.runs.run_folder import RunPaths
from pretrain.runs.status import read_status
from pretrain.training.progress import Progress

EVERY_STEP = ("--checkpoint-minutes", "1e-6")
EPOCHS = 12  # thirty attempts take about seven

Part = Literal["warm-up", "training", "validation", "saving"]


@dataclass(frozen=True)
class Strike:
    """A signal, sent at a random moment of a part, to one trainer or through its launcher."""

    signal: signal.Signals
    part: Part = "training"
    launched: Literal["", "group", "trainer"] = ""  # who gets it when `accelerate launch` started


# Blocks in random order; within a block one follows the other, so most pairs hit the same epoch.
STRIKES: list[list[Strike]] = [
    *[[Strike(SIGKILL, "warm-up")]] * 4,
    *[[Strike(SIGKILL, "training")]] * 8,
    *[[Strike(SIGKILL, "validation")]] * 3,
    *[[Strike(SIGKILL, "saving")]] * 3,
    [Strike(SIGKILL, launched="group")],
    [Strike(SIGKILL, launched="trainer")],
    [Strike(SIGTERM, "warm-up")],
    *[[Strike(SIGTERM, "training"), Strike(SIGTERM, "training")]] * 2,
    *[[Strike(SIGTERM, "validation"), Strike(SIGTERM, "training")]],
    [Strike(SIGTERM, "saving")],
    [Strike(SIGTERM, launched="group")],
    [Strike(SIGTERM, launched="trainer")],
]


@pytest.mark.slow
def test_a_run_killed_and_stopped_thirty_times_equals_an_uninterrupted_one(
    even: list[str], tmp_path: Path, fork_server: Any
) -> None:
    flags = [*even, "--micro-batch-size", "4", "--lr", "0.02", "--ema-epochs", "1"]
    flags += ["--dropout", "0.3", "--mixup", "0.4"]
    flags += ["--epochs", str(EPOCHS), "--patience", str(EPOCHS)]
    whole, struck = tmp_path / "whole", tmp_path / "struck"
    random_numbers = random.Random(5)
    blocks = random_numbers.sample(STRIKES, len(STRIKES))
    strikes = [strike for block in blocks for strike in block]
    assert Counter(strike.signal for strike in strikes) == {SIGKILL: 20, SIGTERM: 10}
    fork_server.start([*flags, "--run-dir", str(whole)])
    spans = _spans(fork_server)
    assert fork_server.wait() == [0], fork_server.log.read_text()
    stops: list[tuple[int, int]] = []
    log_lines = [f"parts last {spans}"]
    for strike in strikes:
        every = EVERY_STEP if random_numbers.random() < 0.6 else ()
        argv = [*flags, "--run-dir", str(struck), *every]
        share = random_numbers.random()
        if strike.launched:
            part = _launch_and_strike(argv, struck, strike, share * spans["training"])
        else:
            part = _strike(fork_server, argv, struck, strike, share * spans[strike.part])
        progress = _newest(struck)
        log_lines.append(f"{strike.signal.name} {strike.launched} in {part}: {progress}")
        if strike.signal == SIGTERM and progress is not None:
            stops.append((progress.epoch, progress.step))
    print(*log_lines, sep="\n")
    fork_server.start([*flags, "--run-dir", str(struck)])
    assert fork_server.wait() == [0], fork_server.log.read_text()
    mid_epoch = Counter(epoch for epoch, step in set(stops) if step)
    assert mid_epoch.most_common(1)[0][1] >= 2, "no epoch was stopped twice"
    _assert_equal_bit_for_bit(whole, struck)


def _spans(fork_server: Any) -> dict[str, float]:
    """How many seconds each part of an undisturbed run takes, once."""
    seconds, visits = Counter[str](), Counter[str]()
    part, then = "", time.monotonic()
    deadline = then + 300
    while part != "ended":
        assert then < deadline, fork_server.log.read_text()
        time.sleep(0.002)
        now, new = time.monotonic(), fork_server.part()
        seconds[part] += now - then  # type: ignore[assignment]
        visits[new] += new != part
        part, then = new, now
    return {part: seconds[part] / visits[part] for part in visits if visits[part]}


def _strike(fork_server: Any, argv: list[str], run: Path, strike: Strike, delay: float) -> str:
    """Start a trainer, strike it `delay` seconds into a part; returns the part it was in then."""
    (trainer,) = fork_server.start(argv)
    wait_for(lambda: fork_server.part() in (strike.part, "ended"))
    time.sleep(delay)
    part = fork_server.part()
    os.kill(trainer, strike.signal)
    (ended,) = fork_server.wait()
    log = fork_server.log.read_text()[-2000:]
    assert ended == (-SIGKILL if strike.signal == SIGKILL else EXIT_INTERRUPTED), (part, log)
    if strike.signal == SIGTERM:
        _assert_interrupted(run)
    return part


def _launch_and_strike(argv: list[str], run: Path, strike: Strike, delay: float) -> str:
    """As `_strike`, with `accelerate launch` between, at any time after the first checkpoint."""
    before = _newest_name(run)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    launcher = subprocess.Popen(
        [*launch, str(ROOT / "pretrain" / "train.py"), *argv, *EVERY_STEP],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: _newest_name(run) != before)
    time.sleep(delay)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    assert len(children) == 1
    if strike.launched == "group":
        os.killpg(launcher.pid, strike.signal)
        assert launcher.wait() == -strike.signal
    else:
        os.kill(int(children[0]), strike.signal)
        assert launcher.wait() == 1  # whatever the trainer ended with
    with RunPaths(run).lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # a trainer outlives its launcher while it saves
    if strike.signal == SIGTERM:
        _assert_interrupted(run)
    return f"training, struck the {strike.launched}"


def _assert_interrupted(run: Path) -> None:
    status = read_status(run)
    assert status is not None and status.state == "interrupted", status


def _assert_equal_bit_for_bit(one: Path, other: Path) -> None:
    assert RunPaths(one).best.read_bytes() == RunPaths(other).best.read_bytes()
    found, expected = (load_checkpoint(RunPaths(run).checkpoints, Progress) for run in (other, one))
    assert found is not None and expected is not None
    assert found[0] == expected[0]
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=0)
    assert numbers(other) == numbers(one) and len(numbers(one)) == EPOCHS


def _newest(run: Path) -> Progress | None:
    found = load_checkpoint(RunPaths(run).checkpoints, Progress)
    return None if found is None else found[0]


def _newest_name(run: Path) -> str:
    return max((path.name for path in list_checkpoints(RunPaths(run).checkpoints)), default="")
