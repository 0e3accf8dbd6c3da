"""A disk that runs full while a run is saved: a one-line error, and nothing is lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import numbers, run_flags

from micrograph.cli import EXIT_USER_ERROR
from pretrain.runs.checkpoint import load_checkpoint
from pretrain.runs.run_folder import RunPaths
from pretrain.train import main as train
from pretrain.training.progress import Progress


def test_a_full_disk_loses_nothing_and_the_run_continues_with_more_room(
    shards: Path,
    tmp_path: Path,
    small_disk: Callable[[int], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ["--image-size", "64", "--batch-size", "16", "--epochs", "2", "--lr", "0.02"]
    more += ["--ema-epochs", "1"]
    train(run_flags(shards, tmp_path / "whole", *more))
    capsys.readouterr()
    disk = small_disk(4000)
    run, reached = disk.folder / "run", [(-1, 0)]
    while True:
        try:
            train(run_flags(shards, run, *more, "--checkpoint-minutes", "1e-6"))
            break
        except SystemExit as end:
            assert end.code == EXIT_USER_ERROR
        (line,) = [ln for ln in capsys.readouterr().err.splitlines() if ln.startswith("error:")]
        found = load_checkpoint(RunPaths(run).checkpoints, Progress)  # raises where none is sound
        at = (0, 0) if found is None else (found[0].epoch, found[0].step)
        assert line.startswith(f"error: cannot write to {run}")
        assert "No space left on device" in line
        if len(reached) > 1:  # the first attempt may not even have opened its folder
            assert f"the same command resumes after epoch {at[0]}, step {at[1]}" in line
        assert at >= reached[-1]
        reached.append(at)
        disk.grow(disk.kilobytes + 2500)
    print(f"went on after {reached[1:]}")
    assert (0, 0) in reached and len(set(reached)) > 2, "never full once something was saved"
    assert not list(run.rglob("*.partial"))
    whole = tmp_path / "whole"
    assert RunPaths(run).best.read_bytes() == RunPaths(whole).best.read_bytes()
    assert numbers(run) == numbers(whole)
