"""Grids on this machine: tasks run side by side, continue, and are tried again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from checkout import ROOT
from networks import SMALL_ARCH
from pictures import save_labelled
from waiting import wait_for

from launch.collect import main as collect
from launch.local import main as run_local
from launch.local import thread_flags
from launch.state.state import grid_statuses
from launch.tasks.grid import build_grid
from pretrain.registry.storage.folder_store import open_registry
from pretrain.runs.metrics_log import read_metrics

EPOCHS = 12  # so many that neither of two tasks is over before the other has one behind it
MICRONET = ROOT / "configs" / "launch" / "micronet-76.yaml"


def save_labels(folder: Path) -> None:
    """Five images of a bright square on a dark ground."""
    rng = np.random.default_rng(0)
    masks = np.zeros((5, 64, 64), np.uint8)
    for number, mask in enumerate(masks):
        mask[8 : 30 + 4 * number, 16:48] = 1
    images = np.uint8(60 + 120 * masks + rng.integers(0, 20, masks.shape))
    save_labelled(folder, zip(images, masks, strict=True))


def test_tasks_share_the_cores_unless_their_settings_say_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    start = f"root: {tmp_path}/out\nsettings: {{arch: resnet18}}\naxes:\n  run: "
    path.write_text(f"program: pretrain.train\n{start}{{plain: , set: {{loader_threads: 3}}}}")
    plain, own = build_grid(path).tasks
    assert thread_flags(plain, None) == []
    assert thread_flags(plain, 8) == ["--threads", "8", "--loader-threads", "8"]
    assert thread_flags(plain, 8, processes=3) == ["--threads", "2", "--loader-threads", "2"]
    assert thread_flags(plain, 1, processes=3) == ["--threads", "1", "--loader-threads", "1"]
    assert thread_flags(own, 8) == ["--threads", "8"]
    (tmp_path / "recipe.yaml").write_text("threads: 5")
    path.write_text(f"program: pretrain.train\nconfig: {tmp_path}/recipe.yaml\n{start}{{a: }}")
    assert thread_flags(build_grid(path).tasks[0], 8) == ["--loader-threads", "8"]
    path.write_text("program: downstream.segment\nsettings: {data: labels}\naxes: {seed: [0]}")
    assert thread_flags(build_grid(path).tasks[0], 4) == ["--threads", "4"]


@pytest.mark.slow
def test_a_failed_segmentation_is_retried_and_collected(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_labels(Path("labels"))
    Path("grid.yaml").write_text("""
name: study
program: downstream.segment
root: out
settings: {arch: resnet18, max_epochs: 1, stage2_lr: none, batch_size: 2, crop_size: 64}
axes: {data: [labels, later], seed: [0]}
after_task: ["touch {folder}/then"]
""")
    with pytest.raises(SystemExit) as some_failed:
        run_local(["grid.yaml", "--jobs", "2", "--threads", "1"])
    assert some_failed.value.code == 1
    report = capsys.readouterr().out
    assert "study: 2 tasks: 1 finished, 1 failed" in report
    assert "failed later.0: " in report and "later" in report.split("failed later.0: ")[1]
    assert Path("out/labels.0/then").exists() and not Path("out/later.0/then").exists()
    written = Path("out/labels.0/results.json").stat().st_mtime_ns

    Path("later").symlink_to("labels")
    run_local(["grid.yaml", "--retry-failed", "--threads", "1"])
    assert "study: 2 tasks: 2 finished" in capsys.readouterr().out
    assert Path("out/labels.0/results.json").stat().st_mtime_ns == written

    collect(["grid.yaml"])
    assert capsys.readouterr().out.splitlines()[1:] == ["out/results.csv", "out/results.md"]
    scores = pd.read_csv("out/results.csv").val_miou
    assert scores[0] == scores[1] and 0 < scores[0] <= 1
    assert "| labels | 0 | finished | 1 |" in Path("out/results.md").read_text()


@pytest.mark.slow
def test_each_converged_run_is_published_when_it_ends(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # no environment is activated
    published = yaml.safe_load(MICRONET.read_text())["after_task"]
    grid = {
        "program": "pretrain.train",
        "root": "runs/micronet-76",
        "settings": {
            **{"shards": str(shards), "image_size": 32, "batch_size": 8, "epochs": 2},
            **{"arch": "resnet18", "init": "random", "device": "cpu", "threads": 1},
        },
        # At the second rate nothing is learnt.
        "axes": {"init": ["random"], "lr": [0.01, 1e-12]},
        "after_task": published,
    }
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    run_local(["grid.yaml"])
    statuses = grid_statuses(build_grid(Path("grid.yaml")))
    assert [status.state for status in statuses] == ["finished", "finished"]
    assert [status.run and status.run.converged for status in statuses] == [True, False]
    assert open_registry("runs/micronet-76/registry").entries() == {
        "resnet18.random-micronet": (1,)
    }


@pytest.mark.slow
def test_a_task_killed_after_publishing_publishes_once(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kill = "if [ -e launcher ]; then kill -9 $(cat launcher); rm launcher; kill -9 0; fi"
    Path("grid.yaml").write_text(f"""
program: pretrain.train
root: out
settings: {{shards: {shards}, image_size: 32, batch_size: 8, lr: 0.01, arch: resnet18,
            device: cpu, threads: 1, loader_threads: 1, epochs: 1}}
axes: {{run: {{a: }}}}
after_task:
  - python -m pretrain.publish {{folder}} --tag tiny --registry encoders --not-converged
  - {kill}
""")
    grid = build_grid(Path("grid.yaml"))
    start = f"echo $$ > launcher; exec {sys.executable} -m launch.local grid.yaml"
    assert subprocess.run(["sh", "-c", start]).returncode == -signal.SIGKILL
    assert open_registry("encoders").entries() == {"resnet18.tiny": (1,)}
    wait_for(lambda: grid_statuses(grid)[0].state != "running")
    assert grid_statuses(grid)[0].state == "interrupted"
    run_local(["grid.yaml"])
    assert grid_statuses(grid)[0].state == "finished"
    assert "already published in encoders" in grid.log(grid.tasks[0]).read_text()
    assert open_registry("encoders").entries() == {"resnet18.tiny": (1,)}


@pytest.mark.slow
def test_ctrl_c_saves_the_running_tasks_and_the_same_command_continues(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid_file = tmp_path / "grid.yaml"
    grid_file.write_text(f"""
program: pretrain.train
root: {tmp_path}/out
settings: {{shards: {shards}, image_size: 32, batch_size: 8, lr: 0.01, arch: {SMALL_ARCH},
            device: cpu, threads: 1, loader_threads: 1, epochs: {EPOCHS}}}
axes: {{run: {{a: , b: , c: }}}}
""")
    command = [sys.executable, "-m", "launch.local", str(grid_file), "--jobs", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    grid = build_grid(grid_file)
    wait_for(lambda: all(read_metrics(t.folder) for t in grid.tasks[:2]), seconds=900)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "asking the running tasks to save" in errors
    assert [status.state for status in grid_statuses(grid)] == [
        "interrupted",
        "interrupted",
        "waiting",
    ]

    subprocess.run(command, check=True)
    assert [status.state for status in grid_statuses(grid)] == ["finished"] * 3
    epochs = [[record["epoch"] for record in read_metrics(t.folder)] for t in grid.tasks]
    assert epochs == [[*range(1, EPOCHS + 1)]] * 3
    collect([str(grid_file)])
    assert len(pd.read_csv(tmp_path / "out" / "results.csv")) == 3
