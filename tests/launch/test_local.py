"""Grids on this machine alone: all run, interrupted ones go on, failed ones are retried."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from networks import SMALL_ARCH
from PIL import Image

from launch.collect import main as collect
from launch.grid import build_grid
from launch.local import main as run_local
from launch.local import thread_flags
from launch.state import grid_states
from pretrain.registry.stores import open_registry
from pretrain.runs.metrics_log import read_metrics

Wait = Callable[..., None]
EPOCHS = 12  # so many that neither of two tasks is over before the other has one behind it
MICRONET = Path(__file__).parents[2] / "configs" / "launch" / "micronet-76.yaml"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Bright squares on a dark ground: two images for each split."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in (split, f"{split}_annot"):
            (tmp_path / "labels" / name).mkdir(parents=True)
        for number in range(2):
            mask = np.zeros((64, 64), np.uint8)
            mask[8 : 30 + 10 * number, 16:48] = 1
            image = np.uint8(60 + 120 * mask + rng.integers(0, 20, mask.shape))
            Image.fromarray(image).save(tmp_path / "labels" / split / f"{number}.png")
            Image.fromarray(mask).save(tmp_path / "labels" / f"{split}_annot" / f"{number}.png")
    return tmp_path / "labels"


def read_csv(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as stream:
        return {row["task"]: row for row in csv.DictReader(stream)}


def test_tasks_share_the_cores_but_where_they_say_otherwise(tmp_path: Path) -> None:
    recipe, grid_file = tmp_path / "recipe.yaml", tmp_path / "grid.yaml"
    recipe.write_text("threads: 5")
    start = f"root: {tmp_path}/out\nsettings: {{arch: resnet18}}\naxes:\n  run: "
    grid_file.write_text(
        f"program: pretrain.train\n{start}{{plain: , told: {{loader_threads: 3}}}}"
    )
    plain, told = build_grid(grid_file).tasks
    assert thread_flags(plain, None) == []
    assert thread_flags(plain, 8) == ["--threads", "8", "--loader-threads", "8"]
    assert thread_flags(plain, 8, processes=3) == ["--threads", "2", "--loader-threads", "2"]
    assert thread_flags(plain, 1, processes=3) == ["--threads", "1", "--loader-threads", "1"]
    assert thread_flags(told, 8) == ["--threads", "8"]
    grid_file.write_text(f"program: pretrain.train\nconfig: {recipe}\n{start}{{a: , b: }}")
    assert thread_flags(build_grid(grid_file).tasks[0], 8) == ["--loader-threads", "8"]
    grid_file.write_text(
        f"program: downstream.segment\nroot: {tmp_path}/out\n"
        "settings: {data: labels}\naxes: {seed: [0]}"
    )
    assert thread_flags(build_grid(grid_file).tasks[0], 4) == ["--threads", "4"]


@pytest.mark.slow
def test_a_grid_of_segmentations_runs_fails_is_retried_and_collected(
    labels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text("""
name: study
program: downstream.segment
root: out
settings: {arch: resnet18, max_epochs: 1, stage2_lr: none, batch_size: 2, crop_size: 64}
axes: {data: [labels, later], seed: [0]}
then: ["touch {folder}/then"]
""")
    with pytest.raises(SystemExit) as some_failed:
        run_local(["grid.yaml", "--jobs", "2", "--threads", "1"])
    assert some_failed.value.code == 1
    report = capsys.readouterr().out
    assert "study: 2 tasks: 1 done, 1 failed" in report
    assert "failed later.0: " in report and "later" in report.split("failed later.0: ")[1]
    assert Path("out/labels.0/then").exists() and not Path("out/later.0/then").exists()
    done_at = Path("out/labels.0/results.json").stat().st_mtime_ns

    Path("later").symlink_to(labels)
    run_local(["grid.yaml", "--retry-failed", "--threads", "1"])
    assert "study: 2 tasks: 2 done" in capsys.readouterr().out
    assert Path("out/labels.0/results.json").stat().st_mtime_ns == done_at

    collect(["grid.yaml"])
    assert capsys.readouterr().out.splitlines()[1:] == ["out/results.csv", "out/results.md"]
    rows = read_csv(Path("out/results.csv"))
    assert rows["labels.0"]["test_miou"] == rows["later.0"]["test_miou"]
    assert 0 < float(rows["labels.0"]["test_miou"]) <= 1
    assert "| labels | 0 | done | 1 |" in Path("out/results.md").read_text()


@pytest.mark.slow
def test_each_converged_run_is_published_as_it_ends(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # no environment is activated
    published = yaml.safe_load(MICRONET.read_text())["then"]
    grid = {
        "program": "pretrain.train",
        "root": "runs/micronet-76",
        "settings": {
            **{"shards": str(shards), "image_size": 32, "batch_size": 8, "epochs": 2},
            **{"arch": "resnet18", "init": "random", "device": "cpu", "threads": 1},
        },
        # At the second rate nothing is learnt: one class is answered.
        "axes": {"init": ["random"], "lr": [0.01, 1e-12]},
        "then": published,
    }
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    run_local(["grid.yaml"])
    states = grid_states(build_grid(Path("grid.yaml")))
    assert [state.kind for state in states] == ["done", "done"]
    assert [state.status and state.status.converged for state in states] == [True, False]
    assert open_registry("runs/micronet-76/registry").entries() == {
        "resnet18.random-micronet": (1,)
    }


@pytest.mark.slow
def test_a_task_killed_when_it_had_published_publishes_once(
    shards: Path, tmp_path: Path, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kill = "if [ -e launcher ]; then kill -9 $(cat launcher); rm launcher; kill -9 0; fi"
    Path("grid.yaml").write_text(f"""
program: pretrain.train
root: out
settings: {{shards: {shards}, image_size: 32, batch_size: 8, lr: 0.01, arch: resnet18,
            device: cpu, threads: 1, loader_threads: 1, epochs: 1}}
axes: {{run: {{a: }}}}
then:
  - python -m pretrain.publish {{folder}} --tag tiny --registry encoders --not-converged
  - {kill}
""")
    grid = build_grid(Path("grid.yaml"))
    start = f"echo $$ > launcher; exec {sys.executable} -m launch.local grid.yaml"
    assert subprocess.run(["sh", "-c", start]).returncode == -signal.SIGKILL
    assert open_registry("encoders").entries() == {"resnet18.tiny": (1,)}
    wait_until(lambda: grid_states(grid)[0].kind != "running", "the task is killed too")
    assert grid_states(grid)[0].kind == "preempted"
    run_local(["grid.yaml"])
    assert grid_states(grid)[0].kind == "done"
    assert "is there already in encoders" in grid.log(grid.tasks[0]).read_text()
    assert open_registry("encoders").entries() == {"resnet18.tiny": (1,)}


@pytest.mark.slow
def test_ctrl_c_saves_the_running_tasks_and_the_same_command_goes_on(
    shards: Path, tmp_path: Path, wait_until: Wait, capsys: pytest.CaptureFixture[str]
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
    wait_until(lambda: all(read_metrics(t.folder) for t in grid.tasks[:2]), "both have an epoch")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "asking the running tasks to save" in errors
    assert [state.kind for state in grid_states(grid)] == ["preempted", "preempted", "pending"]

    subprocess.run(command, check=True)
    assert [state.kind for state in grid_states(grid)] == ["done"] * 3
    epochs = [[record["epoch"] for record in read_metrics(t.folder)] for t in grid.tasks]
    assert epochs == [[*range(1, EPOCHS + 1)]] * 3
    collect([str(grid_file)])
    assert len(read_csv(tmp_path / "out" / "results.csv")) == 3
