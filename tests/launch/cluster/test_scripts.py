"""What is submitted to SLURM: the sbatch scripts, and the record of the jobs."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from checkout import ROOT

from launch.cluster.jobs import record_jobs, submitted_jobs
from launch.cluster.script import array_script, collect_script, format_indices
from launch.slurm import main as submit
from launch.tasks.grid import build_grid
from launch.tasks.task_list import Grid

MICRONET = ROOT / "configs" / "launch" / "micronet-76.yaml"


def test_a_dry_run_writes_valid_scripts_and_submits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    submit([str(MICRONET), "--dry-run", "--throttle", "8", "--only", "*.random"])
    scripts = [Path(line) for line in capsys.readouterr().out.splitlines()]
    names = [script.name for script in scripts]
    assert names == ["array-0.sbatch", "array-1.sbatch", "collect.sbatch"]
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)
    texts = [script.read_text() for script in scripts]
    for option in ("--requeue", "--open-mode=append", "--signal=TERM@120", "--time=24:00:00"):
        assert f"#SBATCH {option}\n" in texts[0]
    assert "#SBATCH --time=48:00:00\n" in texts[1]
    # The 36 tasks are in two arrays, which share the 8 by size.
    throttles = [text.split("#SBATCH --array=")[1].split()[0].split("%")[1] for text in texts[:2]]
    assert sum(map(int, throttles)) <= 8
    assert not (tmp_path / "runs" / "micronet-76" / "_launch" / "jobs.jsonl").exists()


def test_missing_data_is_reported_before_anything_is_queued(
    grid: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(["grid.yaml", "--dry-run"])
    warning = capsys.readouterr().err
    assert warning.startswith("warning: data/shards does not exist here; 4 tasks")
    assert "(first: vgg11)" in warning
    (tmp_path / "data" / "shards").mkdir(parents=True)
    submit(["grid.yaml", "--dry-run"])
    assert capsys.readouterr().err == ""


def test_no_array_is_larger_than_slurm_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    axes = "axes: {arch: [vgg11, vgg13], seed: [" + ", ".join(map(str, range(550))) + "]}"
    Path("grid.yaml").write_text(f"program: pretrain.train\nroot: out\n{axes}\n")
    submit(["grid.yaml", "--dry-run"])
    first, second, _ = (Path(line).read_text() for line in capsys.readouterr().out.splitlines())
    assert "--array=0-1000\n" in first and "index=$SLURM_ARRAY_TASK_ID\n" in first
    assert "--array=0-98\n" in second and "index=$((SLURM_ARRAY_TASK_ID + 1001))\n" in second
    assert format_indices([7, 0, 1, 2, 9, 10]) == "0-2,7,9-10"
    grid = build_grid(Path("grid.yaml"))
    record_jobs(grid, "8", range(1001, 1100), 1001)
    assert submitted_jobs(grid)[1099] == "8_98"


def test_a_folder_with_spaces_and_patterns_is_quoted(grid: Grid) -> None:
    """sbatch parses quotes in its options, and replaces %a by the task's number."""
    text = array_script(replace(grid, root=Path("/my 5%a")), Path("/x"), [0], Path("/"), None)
    assert "#SBATCH --output='/my 5%%a/_launch/logs/slurm-%A_%a.log'\n" in text


def test_several_nodes_and_gpus_have_one_launcher_on_each_node(grid: Grid) -> None:
    resources = replace(grid.tasks[0].resources, nodes=2, gpus=8, cpus=64)
    tasks = tuple(replace(task, resources=resources) for task in grid.tasks)
    slurm = replace(grid.slurm, container="apptainer exec --nv a.sif", options=("--partition=gpu",))
    grid = replace(grid, tasks=tasks, slurm=slurm, after_task=("echo {name}",))
    text = array_script(grid, Path("/x/tasks.json"), [0, 1], Path("/my work"), None)
    assert "--multi_gpu --num_processes 16" in text
    assert "--num_machines 2 --machine_rank \\$SLURM_NODEID" in text
    assert "srun --nodes=2 --ntasks-per-node=1 --cpus-per-task=64" in text
    assert "#SBATCH --gpus-per-node=8\n" in text and "cd '/my work' || exit\n" in text
    assert text.count("apptainer exec --nv a.sif") == 2
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert "--partition=gpu" in collect_script(grid, Path("/x/tasks.json"), Path("/"))


def test_an_edited_grid_keeps_the_jobs_of_its_tasks(grid: Grid) -> None:
    record_jobs(grid, "7", [0, 1, 3])
    text = Path("grid.yaml").read_text().replace("vgg11,", "resnet18, vgg11,")
    Path("grid.yaml").write_text(text.replace(", vgg19", ""))
    assert submitted_jobs(build_grid(Path("grid.yaml"))) == {1: "7_0", 2: "7_1"}


@pytest.mark.parametrize("damage", ['{"job": "8", "tas', "[]", '{"job": "8"}', "\x00\x00"])
def test_a_damaged_line_hides_no_other_job(
    damage: str, grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    record_jobs(grid, "7", [0])
    with (grid.launch_folder / "jobs.jsonl").open("a") as stream:
        stream.write(damage)  # cut short: without the end of the line
    record_jobs(grid, "9", [1])
    assert submitted_jobs(grid) == {0: "7_0", 1: "9_1"}
    assert "line 2 of " in capsys.readouterr().err
