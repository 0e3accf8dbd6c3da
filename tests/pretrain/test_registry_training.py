"""A training that begins from an encoder of a registry, and one that goes on."""

from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.publish import publish
from pretrain.registry.pull import pull
from pretrain.run_folder import INIT_CARD_NAME, read_run, read_sources
from pretrain.runs.run_folder import RunPaths
from pretrain.status import read_status, write_status
from pretrain.train import main as train


def test_a_run_states_the_version_it_began_from_and_goes_on_with_it(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path / "registry")
    monkeypatch.setenv("MICROGRAPH_REGISTRY", root)
    monkeypatch.chdir(tmp_path)
    small = (
        f"--arch mobilenet_v2 --shards {shards} --image-size 32 --batch-size 48 --lr 0.01 "
        "--threads 1"
    ).split()
    train([*small, "--epochs", "1"])
    first = Path("runs/mobilenet_v2.random")
    name = publish(first, "tiny", root, not_converged=True)
    card = (pull(str(name), root) / "card.json").read_text()
    assert str(shards) not in card and "run_dir" not in card and '"lr": 0.01' in card
    train([*small, "--epochs", "1", "--init", "mobilenet_v2.tiny"])
    second = Path("runs/mobilenet_v2.tiny")
    assert read_run(second)[0].init == "mobilenet_v2.tiny@1"
    assert (second / INIT_CARD_NAME).is_file()
    assert read_sources(read_run(second)[1], RunPaths(second)) == read_run(first)[1].sources
    publish(second, "tiny", root, not_converged=True)
    train([*small, "--epochs", "2", "--init", "mobilenet_v2.tiny"])
    assert read_run(second)[0].init == "mobilenet_v2.tiny@1"
    train([*small, "--epochs", "1", "--init", "mobilenet_v2.tiny", "--run-dir", "runs/new"])
    assert read_run(Path("runs/new"))[0].init == "mobilenet_v2.tiny@2"


def test_a_run_that_is_not_finished_is_published_with_a_warning(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(
        f"--arch mobilenet_v2 --shards {shards} --image-size 32 --batch-size 48 --lr 0.01 "
        f"--threads 1 --epochs 1 --run-dir {run}".split()
    )
    status = read_status(run)
    assert status is not None
    write_status(run, replace(status, state="interrupted", epochs=9))
    capsys.readouterr()
    publish(run, "early", str(tmp_path / "registry"), not_converged=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "is not finished (interrupted, epoch 1 of 9); its best epoch so far is published" in said
