"""Trainings that start from an encoder of a registry, and are published."""

from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.export.publishing import publish
from pretrain.outputs.run_folder import INIT_CARD_NAME, read_run, read_sources
from pretrain.registry.storage.pull import pull
from pretrain.runs.run_folder import RunPaths
from pretrain.runs.status import read_status, write_status
from pretrain.train import main as train


@pytest.fixture
def small(shards: Path) -> list[str]:
    """Flags of a training that takes seconds."""
    return (
        f"--arch mobilenet_v2 --shards {shards} --image-size 32 --batch-size 48 --lr 0.01 "
        "--threads 1 --epochs"
    ).split()


def test_a_run_states_the_version_it_began_from_and_resumes_with_it(
    small: list[str], root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MICROGRAPH_REGISTRY", root)
    monkeypatch.chdir(tmp_path)
    first, second = Path("runs/mobilenet_v2.random"), Path("runs/mobilenet_v2.tiny")
    from_first = ["--init", "mobilenet_v2.tiny"]
    train([*small, "1"])
    publish(first, "tiny", root, not_converged=True)
    train([*small, "1", *from_first])
    assert read_run(second)[0].init == "mobilenet_v2.tiny@1"
    assert (second / INIT_CARD_NAME).is_file()
    assert read_sources(read_run(second)[1], RunPaths(second)) == read_run(first)[1].sources
    publish(second, "tiny", root, not_converged=True)
    train([*small, "2", *from_first])
    assert read_run(second)[0].init == "mobilenet_v2.tiny@1"
    train([*small, "1", *from_first, "--run-dir", "runs/new"])
    assert read_run(Path("runs/new"))[0].init == "mobilenet_v2.tiny@2"


def test_an_unfinished_run_is_published_with_a_warning(
    small: list[str], root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train([*small, "1", "--run-dir", str(run)])
    status = read_status(run)
    assert status is not None
    write_status(run, replace(status, state="interrupted", epochs=9))
    capsys.readouterr()
    name = publish(run, "early", root, not_converged=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "is not finished (interrupted, epoch 1 of 9); its best epoch so far is published" in said
    published = [path.read_text() for path in pull(str(name), root).rglob("*.[jm]*")]
    assert not any(str(tmp_path) in text or str(Path(small[3])) in text for text in published)
