"""A run at a glance: its state and accuracy, what it confuses, and what to do next."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from micrograph.cli import UserError
from micrograph.settings import dump_config
from pretrain.config import TrainConfig
from pretrain.outputs.run_folder import BEST_METADATA
from pretrain.runs.run_folder import RunPaths
from pretrain.runs.status import Status, write_status
from pretrain.summary import main, summarise
from shards.shard_format.schema import read_manifest, write_manifest

# discs, noise, stripes; true class by row.
CONFUSION = [[4, 0, 0], [1, 3, 0], [3, 0, 1]]


@pytest.fixture
def run(shards: Path, tmp_path: Path) -> Path:
    return make_run(shards, tmp_path / "run", top1=8 / 12)


def make_run(shards: Path, folder: Path, top1: float, *, converged: bool = True) -> Path:
    """Three epochs of four, the second the best: the files that a training run leaves."""
    folder.mkdir()
    paths = RunPaths(folder)
    write_manifest(folder, read_manifest(shards))
    paths.config.write_text(dump_config(TrainConfig(arch="resnet18", epochs=4)))
    records = [
        {
            "epoch": epoch,
            "val_top1": share,
            "epoch_seconds": 10.0,
            "images_per_second": 5.0,
            "data_wait": 0.02,
        }
        for epoch, share in enumerate((top1 / 2, top1, top1 / 2), 1)
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    scores = {"loss": 1.0, "top1": top1, "top5": 1.0, "balanced_accuracy": top1}
    best = {"epoch": 2, "scores": scores, "converged": converged, "confusion": CONFUSION}
    save_file({"x": np.zeros(1)}, paths.best, metadata={BEST_METADATA: json.dumps(best)})
    return folder


def status(folder: Path, **fields: object) -> None:
    now = Status(state="running", epoch=3, epochs=4, updated=time.time())
    write_status(folder, replace(now, **fields))


def test_json_holds_the_scores_of_the_best_epoch(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(run), "--json"])
    (content,) = json.loads(capsys.readouterr().out)
    assert (content["best_epoch"], content["top1"]) == (2, 8 / 12)
    assert content["worst_classes"] == [
        {"name": "stripes", "right": 1, "images": 4},
        {"name": "noise", "right": 3, "images": 4},
    ]
    assert content["most_confused"] == [
        {"true": "stripes", "predicted": "discs", "count": 3, "images": 4},
        {"true": "noise", "predicted": "discs", "count": 1, "images": 4},
    ]


def test_the_state_decides_the_next_step(run: Path) -> None:
    status(run)
    assert summarise(run).state == "running"
    assert summarise(run).seconds_left == 10  # one epoch
    status(run, updated=time.time() - 3600)
    killed = summarise(run)
    assert (killed.state, killed.reason) == ("killed", "no update for 1 h 0 min")
    assert f"--config {run / 'config.yaml'} --run-dir {run}" in killed.next_step
    status(run, state="finished", reason="all done")
    assert summarise(run).next_step == f"python -m pretrain.export {run}"
    (run / "export").mkdir()
    (run / "export" / "card.json").touch()
    assert "downstream.segment" in summarise(run).next_step


def test_a_run_at_chance_level_is_not_recommended(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(shards, tmp_path / "run", 0.3, converged=False)
    status(run, state="finished")
    main([str(run)])
    shown = capsys.readouterr().out
    assert "NOT CONVERGED" in shown
    assert "lower --lr" in shown


def test_several_runs_are_compared_the_best_first(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(shards, tmp_path / name, top1) for name, top1 in (("a", 0.5), ("b", 0.75))]
    main([str(path) for path in (*runs, tmp_path)])
    out, err = capsys.readouterr()
    assert out.index(str(runs[1])) < out.index(str(runs[0]))
    assert "75.0%" in out
    assert "skipped: no training run" in " ".join(err.split())


def test_a_run_before_its_first_validation_can_be_shown(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RunPaths(run).best.unlink()
    (run / "metrics.jsonl").unlink()
    main([str(run)])
    assert "no epoch validated yet" in capsys.readouterr().out


def test_damaged_weights_are_named(run: Path) -> None:
    RunPaths(run).best.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"best.safetensors is damaged"):
        summarise(run)
