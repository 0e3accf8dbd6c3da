"""The doctor finds what would stop or slow down a training, and names the remedy."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from damage import flip

from pretrain.config import TrainConfig
from pretrain.doctor.__main__ import main
from pretrain.doctor.checks import examine
from pretrain.doctor.finding import Finding, Place
from pretrain.doctor.inputs import check_init, check_run_folder
from pretrain.doctor.machine import check_cores, check_dali, check_gpu, check_port

ALONE = Place(rank=0, world=1, local_rank=0, local_world=1, host="here")


def settings(shards: Path, run: Path, **changes: Any) -> TrainConfig:
    small = {"arch": "resnet18", "image_size": 32, "batch_size": 16, "epochs": 10}
    chosen = {"device": "cpu", "shards": str(shards), "run_dir": run}
    return TrainConfig(**(small | chosen | changes))


def only(findings: list[Finding], check: str) -> Finding:
    (finding,) = (finding for finding in findings if finding.check == check)
    return finding


@contextmanager
def busy_port() -> Iterator[int]:
    with socket.socket() as busy:
        busy.bind(("", 0))
        busy.listen()
        yield busy.getsockname()[1]


def test_a_machine_that_can_train_passes_and_the_time_is_estimated(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.doctor.trial._TIMED_SECONDS", 1.0)
    config = settings(shards, tmp_path / "run")
    findings = examine(config, ALONE)
    assert [f for f in findings if f.level == "fail"] == []
    assert "3 classes, 48 training, 12 validation images" in only(findings, "shards").found
    assert only(findings, "memory").found.startswith("micro-batches of 16:")
    assert "10 epochs: " in only(findings, "time").found
    times = only(findings, "time").numbers
    assert times["run_seconds"] == pytest.approx(10 * times["epoch_seconds"])
    assert not (tmp_path / "run").exists()


def test_missing_shards_are_reported_once_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--arch", "resnet18", "--device", "cpu", "--shards", str(tmp_path / "no")]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--run-dir", str(tmp_path), "--json"])
    assert end.value.code == 1
    findings = json.loads(capsys.readouterr().out)
    failed = [finding for finding in findings if finding["level"] == "fail"]
    assert ["shards.write" in finding["found"] for finding in failed] == [True]
    assert findings[-1]["found"] == "not tried, because a check failed: shards"


def test_a_corrupted_shard_is_named(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "set")
    flip(tmp_path / "set" / "train-00001.tar", 3000)
    findings = examine(settings(tmp_path / "set", tmp_path / "run"), ALONE, with_trial=False)
    fault = only([f for f in findings if f.level == "fail"], "shards")
    assert "train-00001.tar: SHA-256 differs" in fault.found
    assert "shards.verify" in fault.remedy


def test_a_port_in_use_is_a_failure_only_if_it_was_chosen(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(shards, tmp_path)
    with busy_port() as port:
        monkeypatch.setenv("MASTER_PORT", str(port))
        (finding,) = check_port(config, ALONE)
        assert (finding.level, finding.found) == ("fail", f"{port} is in use")
        monkeypatch.delenv("MASTER_PORT")
        monkeypatch.setattr("pretrain.doctor.machine.DEFAULT_PORT", port)
        (finding,) = check_port(config, ALONE)
        assert finding.level == "warn"
    monkeypatch.setenv("MASTER_PORT", "many")
    (finding,) = check_port(config, ALONE)
    assert finding.level == "fail"


def test_a_requested_gpu_must_exist(shards: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    (finding,) = check_gpu(settings(shards, tmp_path, device="gpu"), ALONE)
    assert finding.level == "fail"
    assert "--device cpu" in finding.remedy


def test_dali_is_needed_on_a_gpu_only(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # importing it fails
    config = settings(shards, tmp_path / "run")
    findings = examine(config, ALONE, with_trial=False)
    assert [finding for finding in findings if finding.level == "fail"] == []
    assert only(findings, "DALI").found == "not needed on the CPU"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    (finding,) = check_dali(replace(config, device="gpu"), ALONE)
    assert finding.level == "fail" and "pip install nvidia-dali" in finding.remedy


def test_more_threads_than_cores_give_a_warning(shards: Path, tmp_path: Path) -> None:
    (finding,) = check_cores(settings(shards, tmp_path, loader_threads=10_000), ALONE)
    assert finding.level == "warn"
    assert "--loader-threads 10000" in finding.found


def test_a_disk_too_small_for_the_checkpoints_is_found(
    shards: Path, small_disk: Callable[[int], Any]
) -> None:
    (finding,) = check_run_folder(settings(shards, small_disk(2000).folder / "run"), ALONE)
    assert finding.level == "fail"
    assert "0.51 GB needed" in finding.found  # 46.8 MB, four times twice, and three times


def test_unreachable_imagenet_weights_are_found(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    with busy_port() as port:
        pass  # from now on nothing answers there
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    (finding,) = check_init(settings(shards, tmp_path, init="imagenet"), ALONE)
    assert finding.level == "fail"
    assert "--init random" in finding.remedy


@pytest.mark.slow
def test_two_processes_connect_and_train(shards: Path, tmp_path: Path) -> None:
    arguments = ["--arch", "resnet18", "--image-size", "32", "--batch-size", "16", "--json"]
    arguments += ["--device", "cpu", "--shards", str(shards), "--run-dir", str(tmp_path / "run")]
    with busy_port() as port:
        pass
    environment = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "pretrain.doctor", *arguments],
            env=os.environ
            | environment
            | {"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    findings = {finding["check"]: finding["found"] for finding in json.loads(outputs[0])}
    assert findings["processes"].startswith("2 all-reduce by gloo")
    assert findings["memory"].startswith("micro-batches of 8")
    assert outputs[1] == ""
