"""Whole training runs: the same numbers again, after a kill, and in two processes."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from safetensors.torch import load_file
from training_runs import ids_of, newest, numbers, position, run_flags
from waiting import wait_for
from written_sets import write_set

from micrograph.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR
from pretrain.runs.metrics_log import read_metrics
from pretrain.runs.run_folder import RunPaths
from pretrain.train import main as train


def flags(shards: Path, run: Path, *more: str) -> list[str]:
    return run_flags(shards, run, "--lr", "0.02", "--epochs", "3", "--dropout", "0.3", *more)


@pytest.fixture(scope="module")
def uninterrupted(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(flags(shards, run, "--record-ids"))
    return run


def assert_equal_runs(one: Path, other: Path) -> None:
    assert numbers(one) == numbers(other)
    first, second = (load_file(RunPaths(run).best) for run in (one, other))
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


def test_a_run_killed_twice_in_mid_epoch_ends_as_if_never_killed(
    shards: Path, uninterrupted: Path, tmp_path: Path, fork_server: Any
) -> None:
    run = tmp_path / "killed"
    every_step = flags(shards, run, "--checkpoint-minutes", "1e-6")
    for call, at in ((3, (0, 2)), (7, (1, 2))):  # its third step, and the seventh of the next
        fork_server.start(every_step, stops=(0, "step", call, signal.SIGKILL))
        assert fork_server.wait() == [-signal.SIGKILL], fork_server.log.read_text()
        assert position(run) == at
    train(every_step)
    assert_equal_runs(uninterrupted, run)


def test_a_terminated_run_saves_and_resumes(
    shards: Path, uninterrupted: Path, tmp_path: Path, fork_server: Any
) -> None:
    run = tmp_path / "terminated"
    fork_server.start(flags(shards, run), stops=(0, "step", 9, signal.SIGTERM))
    assert fork_server.wait() == [EXIT_INTERRUPTED], fork_server.log.read_text()
    assert position(run) == (1, 3)
    first = newest(run)[0].epoch_seconds
    before = time.monotonic()
    train(flags(shards, run))
    rest = time.monotonic() - before
    assert_equal_runs(uninterrupted, run)
    assert 0 < first < read_metrics(run)[1]["epoch_seconds"] < first + rest  # of both attempts


def test_two_processes_train_on_the_global_batches_of_one(
    shards: Path, uninterrupted: Path, tmp_path: Path, fork_server: Any
) -> None:
    run = tmp_path / "two"
    argv = flags(shards, run, "--record-ids", "--micro-batch-size", "4")
    fork_server.start(argv, world=2)
    assert fork_server.wait() == [0, 0], fork_server.log.read_text()
    alone = ids_of(uninterrupted)
    assert ids_of(run) == alone
    assert sorted(i for step in range(6) for i in alone[0, step]) == list(range(48))
    assert [r["epoch"] for r in read_metrics(run)] == [1, 2, 3]


def test_a_finished_run_is_left_alone(
    shards: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = numbers(uninterrupted)
    train(flags(shards, uninterrupted))
    assert "is finished: all 3 epochs done" in capsys.readouterr().err
    assert numbers(uninterrupted) == before


def test_more_epochs_continue_a_finished_run(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "longer"
    train(flags(shards, run, "--epochs", "1"))
    train(flags(shards, run, "--epochs", "2"))
    assert [record["epoch"] for record in read_metrics(run)] == [1, 2]


def test_a_second_trainer_in_the_same_folder_is_refused(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "busy"
    endless = flags(shards, run, "--epochs", "100000", "--patience", "100000")
    with subprocess.Popen(
        [sys.executable, str(ROOT / "pretrain" / "train.py"), *endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            wait_for(lambda: bool(read_metrics(run)), process)
            with pytest.raises(SystemExit):
                train(endless)
            assert "another process is at work in" in capsys.readouterr().err
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate()
            assert process.returncode == EXIT_INTERRUPTED, output
            assert "the same command resumes" in output
        finally:
            process.kill()


def test_a_corpus_of_one_class_is_refused(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "noise").symlink_to(corpus / "noise")
    write_set(tmp_path / "in", tmp_path / "one")
    with pytest.raises(SystemExit):
        train(flags(tmp_path / "one", tmp_path / "run"))
    assert "has 1 classes" in capsys.readouterr().err


def test_other_settings_in_the_same_folder_are_refused(
    shards: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        train([*flags(shards, uninterrupted), "--momentum", "0.5"])
    assert end.value.code == EXIT_USER_ERROR
    assert "holds a run with momentum 0.9, not 0.5" in capsys.readouterr().err


def test_missing_shards_name_the_command_that_makes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        train(["--arch", "resnet18", "--shards", str(tmp_path / "no"), "--run-dir", str(tmp_path)])
    assert end.value.code == EXIT_USER_ERROR
    assert "python -m shards.write" in capsys.readouterr().err


def test_training_stops_early(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "patient"
    # A rate this small changes nothing that the validation could see.
    train(flags(shards, run, "--lr", "1e-9", "--patience", "1", "--epochs", "9"))
    assert len(read_metrics(run)) < 9
