"""The demo's training on a real SLURM of two nodes: interrupted, failed, submitted again."""

import json
import re
import subprocess
import time
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file
from waiting import wait_for

from launch.cluster.jobs import ask_slurm
from launch.slurm import main as submit
from launch.state.state import TaskState, grid_statuses
from launch.status import main as print_status
from launch.tasks.grid import build_grid
from launch.tasks.task_list import Grid
from pretrain.registry.storage.folder_store import open_registry
from pretrain.runs.metrics_log import read_metrics
from pretrain.runs.run_folder import RunPaths

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("slurm"),
    pytest.mark.timeout(2400),  # seconds: nine trainings on two cores
]
RECIPE = Path("configs/pretrain/demo.yaml").resolve()
TIMES = {"images_per_second", "epoch_seconds", "data_wait"}


def write_grid(folder: Path, shards: Path, settings: str, rest: str) -> Path:
    path = folder / "grid.yaml"
    path.write_text(
        f"""
name: demo
program: pretrain.train
root: out
config: {RECIPE}
resources: {{gpus: 0, cpus: 1}}
settings: {{shards: {shards}, device: cpu, threads: 1, loader_threads: 1, dropout: 0.2,
            record_ids: true, {settings}}}
{rest}
"""
    )
    return path


def states(grid: Grid) -> dict[str, TaskState]:
    return {status.task.name: status.state for status in grid_statuses(grid)}


def nothing_queued() -> bool:
    time.sleep(0.2)
    listing = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    return not listing.stdout.strip()


def log_of(grid: Grid, name: str) -> str:
    return (grid.launch_folder / "logs" / f"{name}.log").read_text()


def starts(grid: Grid, name: str) -> int:
    return sum(line.startswith("=== started") for line in log_of(grid, name).splitlines())


def in_second_epoch(run: Path) -> bool:
    return bool(read_metrics(run)) and max(read_ids(run, 1)) > (1, 5)


def numbers(folder: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in record.items() if name not in TIMES}
        for record in read_metrics(folder)
    ]


def assert_equal_runs(one: Path, other: Path) -> None:
    assert numbers(one) == numbers(other)
    assert read_ids(one, 1) == read_ids(other, 1)
    first, second = (load_file(RunPaths(run).best) for run in (one, other))
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)


def test_a_preempted_array_has_the_results_of_an_undisturbed_one(
    tmp_path: Path,
    demo_shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    late = tmp_path / "late"  # shards that are not there when the first array runs
    path = write_grid(
        tmp_path,
        demo_shards,
        "epochs: 2",
        f"""
axes:
  fate: {{calm: , signalled: , requeued: , failing: {{shards: {late}}}}}
after_task:
  - echo {{name}} >> finished.txt
  - python -m pretrain.publish {{folder}} --tag {{fate}} --registry encoders --not-converged
after_all:
  - python -m pretrain.publish out/calm --tag chosen --registry encoders --not-converged
  - python -m pretrain.registry site encoders
""",
    )
    grid = build_grid(path)
    submit([str(path), "--dry-run"])
    assert "array-0.sbatch" in capsys.readouterr().out
    assert nothing_queued()
    submit([str(path)])
    jobs = ask_slurm(grid)
    assert jobs is not None and len(jobs.submitted) == 4
    submit([str(path)])  # what is queued is not submitted twice
    assert "nothing to submit" in capsys.readouterr().out

    for name, command in (
        ("signalled", ["scancel", "--signal=TERM"]),
        ("requeued", ["scontrol", "requeue"]),
    ):
        task = next(task for task in grid.tasks if task.name == name)
        wait_for(lambda at=task: in_second_epoch(at.folder), seconds=900)
        subprocess.run([*command, jobs.submitted[task.index]], check=True)
    wait_for(nothing_queued, seconds=900)

    assert states(grid) == {
        "calm": "finished", "signalled": "finished", "requeued": "finished", "failing": "failed"
    }  # fmt: skip
    assert [starts(grid, name) for name in ("calm", "signalled", "requeued")] == [1, 2, 2]
    for name in ("signalled", "requeued"):
        assert re.search(r"resuming after epoch 1, step [1-9]", log_of(grid, name))
        assert_equal_runs(grid.root / "calm", grid.root / name)
    assert sorted(Path("finished.txt").read_text().split()) == ["calm", "requeued", "signalled"]
    published = {f"resnet18.{tag}": (1,) for tag in ("calm", "signalled", "requeued", "chosen")}
    assert open_registry("encoders").entries() == published
    assert Path("encoders.html").read_text().count("<details ") == 4
    capsys.readouterr()
    print_status([str(path), "--only", "failed"])
    assert "no shards in" in capsys.readouterr().out
    rows = pd.read_csv(grid.root / "results.csv", index_col="task")  # of the last job
    assert rows.state.to_dict() == states(grid)
    assert "no shards in" in rows.reason["failing"]

    late.symlink_to(demo_shards)
    submit([str(path), "--retry-failed", "--no-collect"])
    assert "1 tasks submitted" in capsys.readouterr().out
    wait_for(nothing_queued, seconds=900)
    assert states(grid)["failing"] == "finished"
    assert_equal_runs(grid.root / "calm", grid.root / "failing")
    assert starts(grid, "calm") == 1


def test_two_nodes_train_on_the_global_batches_of_one(
    tmp_path: Path, demo_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_grid(
        tmp_path,
        demo_shards,
        "epochs: 2, micro_batch_size: 16",
        """
axes: {nodes: {one: , two: }}
overrides:
  - {match: {nodes: two}, resources: {nodes: 2}}
""",
    )
    grid = build_grid(path)
    submit([str(path), "--no-collect"])
    wait_for(nothing_queued, seconds=900)
    assert states(grid) == {"one": "finished", "two": "finished"}, log_of(grid, "two")
    assert read_ids(grid.root / "two", 2) == read_ids(grid.root / "one", 1)
    assert [record["epoch"] for record in read_metrics(grid.root / "two")] == [1, 2]


def read_ids(run: Path, world: int) -> dict[tuple[int, int], list[int]]:
    """(epoch, step) -> sorted ids over all processes."""
    batches: dict[tuple[int, int], list[int]] = defaultdict(list)
    for rank in range(world):
        for line in (run / f"ids-{rank}-of-{world}.jsonl").read_text().splitlines():
            record = json.loads(line)
            batches[record["epoch"], record["step"]] += record["ids"]
    return {at: sorted(ids) for at, ids in batches.items()}
