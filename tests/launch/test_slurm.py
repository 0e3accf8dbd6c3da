"""The demo's training on a real SLURM of two nodes: preempted, failed, resubmitted, on both."""

import csv
import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from launch.grid import build_grid
from launch.jobs import ask_slurm
from launch.slurm import main as submit
from launch.state import Kind, grid_states
from launch.status import main as print_status
from launch.tasks import Grid
from pretrain.registry.stores import open_registry
from pretrain.runs.metrics_log import read_metrics
from pretrain.runs.run_folder import RunPaths

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("slurm"),
    pytest.mark.timeout(2400),  # seconds: nine trainings on two cores
]
Wait = Callable[..., None]

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


def kinds(grid: Grid) -> dict[str, Kind]:
    return {state.task.name: state.kind for state in grid_states(grid)}


def nothing_queued() -> bool:
    listing = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    return not listing.stdout.strip()


def log_of(grid: Grid, name: str) -> str:
    return (grid.own / "logs" / f"{name}.log").read_text()


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


def read_csv(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as stream:
        return {row["task"]: row for row in csv.DictReader(stream)}


def test_a_preempted_array_ends_as_if_nothing_had_happened(
    tmp_path: Path,
    demo_shards: Path,
    wait_until: Wait,
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
then:
  - echo {{name}} >> finished.txt
  - python -m pretrain.publish {{folder}} --tag {{fate}} --registry encoders --not-converged
finally:
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
        wait_until(lambda at=task: in_second_epoch(at.folder), f"{name} is in its second epoch")
        subprocess.run([*command, jobs.submitted[task.index]], check=True)
    wait_until(nothing_queued, "all jobs have ended")

    assert kinds(grid) == {
        "calm": "done", "signalled": "done", "requeued": "done", "failing": "failed"
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
    rows = read_csv(grid.root / "results.csv")  # of the dependent job
    assert {name: row["state"] for name, row in rows.items()} == kinds(grid)
    assert "no shards in" in rows["failing"]["reason"]

    late.symlink_to(demo_shards)
    submit([str(path), "--retry-failed", "--no-collect"])
    assert "1 tasks submitted" in capsys.readouterr().out
    wait_until(nothing_queued, "the failed task has run again")
    assert kinds(grid)["failing"] == "done"
    assert_equal_runs(grid.root / "calm", grid.root / "failing")
    assert starts(grid, "calm") == 1


def test_two_nodes_train_on_the_global_batches_of_one(
    tmp_path: Path, demo_shards: Path, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
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
    wait_until(nothing_queued, "all jobs have ended")
    assert kinds(grid) == {"one": "done", "two": "done"}, log_of(grid, "two")
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
