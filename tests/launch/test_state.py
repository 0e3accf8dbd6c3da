"""How a task stands: what its program, its last start and its log together mean."""

import argparse
import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launch.attempts import begin, end, last_error, read_attempt
from launch.collect import main as collect
from launch.grid import build_grid
from launch.jobs import Jobs, QueueEntry, record_jobs, submitted_jobs
from launch.script import array_script, collect_script, spell_indices
from launch.selection import add_flags, chosen_tasks, set_aside
from launch.slurm import main as submit
from launch.state import TaskState, grid_states, spell_counts, task_state
from launch.status import main as print_status
from launch.task import main as task_step
from launch.tasks import Grid, freeze
from pretrain.status import EXIT_INTERRUPTED, Status, write_status
from shards.cli import UserError

ROOT = Path(__file__).parents[2]
MICRONET = ROOT / "configs" / "launch" / "micronet-76.yaml"


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """Four tasks of pretrain.train, none begun."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    text = "program: pretrain.train\nroot: out\naxes: {arch: [vgg11, vgg13, vgg16, vgg19]}\n"
    Path("grid.yaml").write_text(text)
    return build_grid(Path("grid.yaml"))


def report(grid: Grid, index: int, state: str, age: float = 0.0, **more: object) -> None:
    """What the trainer of a task writes."""
    folder = grid.tasks[index].folder
    folder.mkdir(parents=True, exist_ok=True)
    values = {"state": state, "epochs": 9, "updated": time.time() - age, **more}
    write_status(folder, Status(**values))  # type: ignore[arg-type]


def ended(grid: Grid, index: int, code: int) -> TaskState:
    end(grid, grid.tasks[index], code)
    return task_state(grid, grid.tasks[index])


def test_a_task_that_nobody_began_is_pending(grid: Grid) -> None:
    assert spell_counts(grid_states(grid)) == "4 pending"


def test_the_end_is_told_by_the_trainer_not_by_the_exit_code(grid: Grid) -> None:
    for index, state in enumerate(("interrupted", "failed", "finished")):
        begin(grid, grid.tasks[index], os.getpid())
        assert task_state(grid, grid.tasks[index]).kind == "running"
        report(grid, index, state, reason="the loss became nan")
    # accelerate launch exits 1 for both.
    assert ended(grid, 0, 1).kind == "preempted"
    failed = ended(grid, 1, 1)
    assert (failed.kind, failed.detail) == ("failed", "the loss became nan")
    assert ended(grid, 2, 0).kind == "done"
    assert spell_counts(grid_states(grid)) == "1 done, 1 preempted, 1 pending, 1 failed"


def test_an_interruption_of_an_earlier_start_does_not_hide_a_failure(grid: Grid) -> None:
    report(grid, 0, "interrupted", age=60)
    begin(grid, grid.tasks[0], os.getpid())
    with grid.log(grid.tasks[0]).open("a") as log:
        log.write("error: no shards in nowhere\n")
    assert end(grid, grid.tasks[0], 1) == ("failed", "no shards in nowhere")


def test_a_program_without_a_status_tells_by_its_code_that_it_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    text = "program: downstream.adapt\nroot: out\nsettings: {study: s.yaml, target: T1}\n"
    Path("grid.yaml").write_text(f"{text}axes: {{seed: [0]}}\n")
    grid = build_grid(Path("grid.yaml"))
    begin(grid, grid.tasks[0], os.getpid())
    assert ended(grid, 0, EXIT_INTERRUPTED).kind == "preempted"
    begin(grid, grid.tasks[0], os.getpid())
    assert ended(grid, 0, 1).kind == "failed"


def test_a_task_whose_process_is_gone_goes_on(grid: Grid) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    begin(grid, grid.tasks[0], gone.pid)
    report(grid, 0, "running", epoch=3)
    state = task_state(grid, grid.tasks[0])
    assert state.kind == "preempted" and "last checkpoint" in state.detail


def test_a_job_killed_after_its_training_goes_on_with_what_follows(grid: Grid) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    begin(grid, grid.tasks[0], gone.pid)
    report(grid, 0, "finished")
    assert task_state(grid, grid.tasks[0]).kind == "done"
    assert task_state(replace(grid, after_task=("true",)), grid.tasks[0]).kind == "preempted"


def test_results_of_other_settings_are_not_passed_off_as_this_grids(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(grid, grid.tasks[0], os.getpid())
    report(grid, 0, "finished")
    assert ended(grid, 0, 0).detail == ""
    edited = Path("grid.yaml").read_text() + "settings: {epochs: 5}\n"
    Path("grid.yaml").write_text(edited)
    grid = build_grid(Path("grid.yaml"))
    state = task_state(grid, grid.tasks[0])
    assert (state.kind, state.detail) == ("done", "with epochs not set, now 5")
    selected(grid)
    told = (
        "ran with other settings and are not run again (first: vgg11, with epochs not set, now 5)"
    )
    assert told in capsys.readouterr().err
    collect(["grid.yaml"])
    assert told in capsys.readouterr().err
    assert ',"with epochs not set, now 5"\n' in (grid.root / "results.csv").read_text()


def test_a_moved_root_changes_no_settings_and_those_of_another_recipe_do(grid: Grid) -> None:
    begin(grid, grid.tasks[0], os.getpid())
    report(grid, 0, "finished")
    assert ended(grid, 0, 0).kind == "done"
    text = Path("grid.yaml").read_text().replace("root: out", "root: moved")
    grid.root.rename("moved")
    Path("grid.yaml").write_text(text)
    grid = build_grid(Path("grid.yaml"))
    assert (grid.root, task_state(grid, grid.tasks[0]).detail) == (Path("moved"), "")
    Path("longer.yaml").write_text("epochs: 5\n")
    Path("grid.yaml").write_text(text + "config: longer.yaml\n")
    grid = build_grid(Path("grid.yaml"))
    assert task_state(grid, grid.tasks[0]).detail == "with epochs not set, now 5"


def test_an_edited_or_lost_recipe_is_told(grid: Grid) -> None:
    recipe = Path("recipe.yaml")
    recipe.write_text("epochs: 5\n")
    Path("grid.yaml").write_text(Path("grid.yaml").read_text() + "config: recipe.yaml\n")
    grid = build_grid(Path("grid.yaml"))
    begin(grid, grid.tasks[0], os.getpid())
    report(grid, 0, "finished")
    assert ended(grid, 0, 0).detail == ""
    recipe.write_text("epochs: 6\n")
    assert task_state(grid, grid.tasks[0]).detail == "with epochs 5, now 6"
    recipe.unlink()
    assert "now recipe.yaml" in task_state(grid, grid.tasks[0]).detail


def test_a_record_of_an_earlier_version_tells_no_settings(grid: Grid) -> None:
    begin(grid, grid.tasks[0], os.getpid())
    report(grid, 0, "finished")
    assert ended(grid, 0, 0).kind == "done"
    path = grid.own / "attempts" / "vgg11.json"
    record = json.loads(path.read_text())
    del record["settings"]
    path.write_text(json.dumps(record))
    assert task_state(grid, grid.tasks[0]).detail == ""


def test_the_queue_tells_waiting_from_running(grid: Grid) -> None:
    begin(grid, grid.tasks[1], os.getpid())
    report(grid, 1, "interrupted")
    submitted = {index: f"7_{index}" for index in range(4)}
    queued = {
        0: QueueEntry("7_0", False, "Resources"),
        1: QueueEntry("7_1", False, "BeginTime"),
        2: QueueEntry("7_2", True, "None"),
    }
    jobs = Jobs(submitted, queued, {3: "OUT_OF_MEMORY"})
    found = [task_state(grid, task, jobs).kind for task in grid.tasks[:3]]
    assert found == ["pending", "preempted", "running"]


def test_a_grid_that_is_edited_keeps_its_tasks_jobs(grid: Grid) -> None:
    record_jobs(grid, "7", [0, 1, 3])
    text = Path("grid.yaml").read_text().replace("vgg11,", "resnet18, vgg11,")
    Path("grid.yaml").write_text(text.replace(", vgg19", ""))
    edited = build_grid(Path("grid.yaml"))
    assert submitted_jobs(edited) == {1: "7_0", 2: "7_1"}


@pytest.mark.parametrize("damage", ['{"job": "8", "tas', "[]", '{"job": "8"}', "\x00\x00"])
def test_a_damaged_line_hides_no_other_job(
    damage: str, grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    record_jobs(grid, "7", [0])
    with (grid.own / "jobs.jsonl").open("a") as stream:
        stream.write(damage)  # cut short: without a line's end
    record_jobs(grid, "9", [1])
    assert submitted_jobs(grid) == {0: "7_0", 1: "9_1"}
    assert "line 2 of " in capsys.readouterr().err


@pytest.mark.parametrize(("word", "kind"), [("TIMEOUT", "preempted"), ("OUT_OF_MEMORY", "failed")])
def test_a_job_that_vanished_is_judged_by_slurms_word(grid: Grid, word: str, kind: str) -> None:
    begin(grid, grid.tasks[0], os.getpid())
    path = grid.own / "attempts" / f"{grid.tasks[0].name}.json"
    attempt = read_attempt(grid, grid.tasks[0])
    assert attempt is not None
    path.write_text(json.dumps({**json.loads(path.read_text()), "job": "8"}))
    assert replace(attempt, job="8") == read_attempt(grid, grid.tasks[0])
    state = task_state(grid, grid.tasks[0], Jobs({0: "7_0"}, {}, {0: word}))
    assert state.kind == kind and word in state.detail


def test_the_reason_is_the_trainers_error_of_the_last_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "=== started 2026-01-01\nerror: of an earlier start\n=== started 2026-01-02\n"
        "\x1b[31merror: the disk is full\x1b[0m\nsrun: error: n1: task 0: Exited with exit code 1\n"
    )
    assert last_error(log) == "the disk is full"
    log.write_text("=== started\nTraceback (most recent call last):\nKeyError: 'mean'\n")
    assert last_error(log) == "KeyError: 'mean'"
    assert last_error(tmp_path / "none") == ""


def test_a_job_asks_what_to_run_and_says_how_it_went(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = Path("tasks.json")
    freeze(grid, tasks)
    task_step(["start", str(tasks), "2"])
    assert capsys.readouterr().out.startswith("pretrain.train --arch vgg16")
    report(grid, 2, "interrupted")
    task_step(["end", str(tasks), "2", "--code", "1"])
    assert capsys.readouterr().out == "interrupted\n"
    task_step(["start", str(tasks), "2"])
    report(grid, 2, "finished")
    task_step(["end", str(tasks), "2", "--code", "0"])
    assert capsys.readouterr().out.endswith("finished\n")
    task_step(["start", str(tasks), "2"])  # done: nothing to run
    assert capsys.readouterr().out == ""


def test_status_shows_epoch_accuracy_and_reason(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    report(grid, 0, "running", epoch=3, best_top1=0.5, eta_seconds=90.0)
    report(grid, 1, "finished", epoch=9, best_top1=0.02, converged=False)
    report(grid, 2, "failed", reason="the loss became nan")
    print_status(["grid.yaml"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:5] == ["0", "vgg11", "running", "3/9", "50.00%"]
    assert "done" in lines[2] and "2.00% (chance)" in lines[2]
    assert lines[3].split()[2] == "failed" and "the loss became nan" in lines[3]
    assert lines[-1] == "grid: 4 tasks: 1 done, 1 running, 1 pending, 1 failed"
    print_status(["grid.yaml", "--json", "--only", "failed"])
    assert json.loads(capsys.readouterr().out)["name"] == "vgg16"


def test_indices_are_spelt_as_slurm_does() -> None:
    assert spell_indices([7, 0, 1, 2, 9, 10]) == "0-2,7,9-10"


def test_the_scripts_of_a_dry_run_are_valid_and_submit_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    submit([str(MICRONET), "--dry-run", "--throttle", "8", "--only", "*.random"])
    scripts = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [script.name for script in scripts] == [
        *("array-0.sbatch", "array-1.sbatch", "collect.sbatch")
    ]
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)
    texts = [script.read_text() for script in scripts]
    for option in ("--requeue", "--open-mode=append", "--signal=TERM@120", "--time=24:00:00"):
        assert f"#SBATCH {option}\n" in texts[0]
    assert "#SBATCH --time=48:00:00\n" in texts[1]
    # 36 tasks in two arrays share the 8 by their size.
    throttles = [text.split("#SBATCH --array=")[1].split()[0].split("%")[1] for text in texts[:2]]
    assert sum(map(int, throttles)) <= 8
    assert not (tmp_path / "runs" / "micronet-76" / "_launch" / "jobs.jsonl").exists()


def test_what_is_not_there_to_learn_from_is_told_before_it_is_queued(
    grid: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(["grid.yaml", "--dry-run"])
    told = capsys.readouterr().err
    assert told.startswith("warning: data/shards is not here;") and "(first of 4: vgg11)" in told
    (tmp_path / "data" / "shards").mkdir(parents=True)
    submit(["grid.yaml", "--dry-run"])
    assert capsys.readouterr().err == ""


def test_no_array_counts_further_than_slurm_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    axes = "axes: {arch: [vgg11, vgg13], seed: [" + ", ".join(map(str, range(550))) + "]}"
    Path("grid.yaml").write_text(f"program: pretrain.train\nroot: out\n{axes}\n")
    submit(["grid.yaml", "--dry-run"])
    first, second, _ = (Path(line).read_text() for line in capsys.readouterr().out.splitlines())
    assert "--array=0-1000\n" in first and "index=$SLURM_ARRAY_TASK_ID\n" in first
    assert "--array=0-98\n" in second and "index=$((SLURM_ARRAY_TASK_ID + 1001))\n" in second
    grid = build_grid(Path("grid.yaml"))
    record_jobs(grid, "8", range(1001, 1100), 1001)
    assert submitted_jobs(grid)[1099] == "8_98"


def test_folders_with_spaces_and_patterns_stay_what_they_are(grid: Grid) -> None:
    """sbatch reads quotes in its options, and %a as the task's number."""
    text = array_script(replace(grid, root=Path("/my 5%a")), Path("/x"), [0], Path("/"), None)
    assert "#SBATCH --output='/my 5%%a/_launch/logs/slurm-%A_%a.log'\n" in text


def test_several_nodes_and_gpus_go_through_one_launcher_per_node(grid: Grid) -> None:
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


def selected(grid: Grid, *flags: str) -> list[str]:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    states = grid_states(grid)
    return [state.task.name for state in chosen_tasks(states, parser.parse_args(flags))]


def test_failed_tasks_are_started_only_when_asked_for(grid: Grid) -> None:
    report(grid, 0, "finished")
    report(grid, 1, "failed")
    report(grid, 2, "interrupted")
    assert selected(grid) == ["vgg16", "vgg19"]
    assert selected(grid, "--retry-failed") == ["vgg13"]
    assert selected(grid, "--only", "*9") == ["vgg19"]
    with pytest.raises(UserError, match="no task fits 'resnet'"):
        selected(grid, "--only", "resnet")
    with pytest.raises(UserError, match="--afresh goes with --retry-failed"):
        selected(grid, "--afresh")


def test_a_task_begun_afresh_keeps_its_old_folder_aside(grid: Grid) -> None:
    report(grid, 1, "failed")
    set_aside(grid, task_state(grid, grid.tasks[1]))
    assert not grid.tasks[1].folder.exists()
    (aside,) = (grid.own / "aside").iterdir()
    assert (aside / "status.json").exists()
    assert task_state(grid, grid.tasks[1]).kind == "pending"
