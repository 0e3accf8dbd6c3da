"""The status of a task: what its program, its last start, SLURM and its log mean together."""

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launch.cluster.jobs import Jobs, QueueEntry
from launch.collect import main as collect
from launch.slurm import main as submit
from launch.state.attempts import last_error, read_attempt, record_end, record_start
from launch.state.selection import move_aside, select_tasks
from launch.state.state import TaskStatus, format_counts, grid_statuses, task_status
from launch.status import main as print_status
from launch.task import main as task_step
from launch.tasks.grid import build_grid
from launch.tasks.task_list import Grid, freeze
from micrograph.cli import EXIT_INTERRUPTED, UserError
from pretrain.runs.status import Status, write_status


def write_run(grid: Grid, index: int, state: str, age: float = 0.0, **more: object) -> None:
    """Write the status.json of a task, as its trainer does."""
    folder = grid.tasks[index].folder
    folder.mkdir(parents=True, exist_ok=True)
    values = {"state": state, "epochs": 9, "updated": time.time() - age, **more}
    write_status(folder, Status(**values))  # type: ignore[arg-type]


def start(grid: Grid, index: int = 0, pid: int | None = None) -> None:
    record_start(grid, grid.tasks[index], os.getpid() if pid is None else pid)


def end(grid: Grid, index: int, code: int) -> TaskStatus:
    record_end(grid, grid.tasks[index], code)
    return task_status(grid, grid.tasks[index])


def finish(grid: Grid) -> None:
    """Run the first task to its end."""
    start(grid)
    write_run(grid, 0, "finished")
    assert end(grid, 0, 0) == task_status(grid, grid.tasks[0])
    assert task_status(grid, grid.tasks[0]).state == "finished"


def edit(old: str, new: str) -> Grid:
    path = Path("grid.yaml")
    path.write_text(path.read_text().replace(old, new))
    return build_grid(path)


@pytest.fixture
def ended_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_the_trainers_status_decides_and_not_the_exit_code(grid: Grid) -> None:
    assert format_counts(grid_statuses(grid)) == "4 waiting"
    for index, state in enumerate(("interrupted", "failed", "finished")):
        start(grid, index)
        assert task_status(grid, grid.tasks[index]).state == "running"
        write_run(grid, index, state, reason="the loss became nan")
    # accelerate launch exits 1 in both cases.
    assert end(grid, 0, 1).state == "interrupted"
    failed = end(grid, 1, 1)
    assert (failed.state, failed.detail) == ("failed", "the loss became nan")
    assert end(grid, 2, 0).state == "finished"
    assert format_counts(grid_statuses(grid)) == "1 finished, 1 interrupted, 1 waiting, 1 failed"


def test_a_status_of_an_earlier_start_does_not_hide_a_failure(grid: Grid) -> None:
    write_run(grid, 0, "interrupted", age=60)
    start(grid)
    with grid.log(grid.tasks[0]).open("a") as log:
        log.write("error: no shards in nowhere\n")
    failed = end(grid, 0, 1)
    assert (failed.state, failed.detail) == ("failed", "no shards in nowhere")


def test_the_exit_code_decides_for_a_program_without_a_status(grid: Grid) -> None:
    grid = edit(
        "pretrain.train", "downstream.adapt\nsettings: {study: s.yaml, target: T1, network: Unet}"
    )
    for code, state in ((EXIT_INTERRUPTED, "interrupted"), (143, "interrupted"), (1, "failed")):
        start(grid)
        assert end(grid, 0, code).state == state


def test_a_killed_task_is_interrupted(grid: Grid, ended_pid: int) -> None:
    start(grid, pid=ended_pid)
    write_run(grid, 0, "running", epoch=3)
    status = task_status(grid, grid.tasks[0])
    assert status.state == "interrupted" and "last checkpoint" in status.detail


def test_a_task_killed_after_its_program_still_runs_its_commands(
    grid: Grid, ended_pid: int
) -> None:
    start(grid, pid=ended_pid)
    write_run(grid, 0, "finished")
    assert task_status(grid, grid.tasks[0]).state == "finished"
    with_commands = replace(grid, after_task=("true",))
    assert task_status(with_commands, grid.tasks[0]).state == "interrupted"


def test_changed_settings_of_a_finished_task_are_reported(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(grid)
    grid = edit("root: out\n", "root: out\nsettings: {epochs: 5}\n")
    status = task_status(grid, grid.tasks[0])
    assert (status.state, status.detail) == ("finished", "with epochs not set, now 5")
    warning = "ran with other settings and are not run again (first: vgg11, with epochs not set"
    select_tasks(grid_statuses(grid))
    assert warning in capsys.readouterr().err
    collect(["grid.yaml"])
    assert warning in capsys.readouterr().err
    assert ',"with epochs not set, now 5"\n' in (grid.root / "results.csv").read_text()


def test_an_edited_or_missing_recipe_is_a_changed_setting(grid: Grid) -> None:
    recipe = Path("recipe.yaml")
    recipe.write_text("epochs: 5\n")
    grid = edit("root: out\n", "root: out\nconfig: recipe.yaml\n")
    finish(grid)
    assert task_status(grid, grid.tasks[0]).detail == ""
    grid.root.rename("moved")  # is no other setting
    grid = edit("root: out", "root: moved")
    assert (grid.root, task_status(grid, grid.tasks[0]).detail) == (Path("moved"), "")
    recipe.write_text("epochs: 6\n")
    assert task_status(grid, grid.tasks[0]).detail == "with epochs 5, now 6"
    recipe.unlink()
    assert "now recipe.yaml" in task_status(grid, grid.tasks[0]).detail


def test_slurms_queue_shows_what_waits_and_what_runs(grid: Grid) -> None:
    start(grid, 1)
    write_run(grid, 1, "interrupted")
    queued = {
        0: QueueEntry("7_0", False, "Resources"),
        1: QueueEntry("7_1", False, "BeginTime"),
        2: QueueEntry("7_2", True, "None"),
    }
    jobs = Jobs({index: f"7_{index}" for index in range(4)}, queued, {3: "OUT_OF_MEMORY"})
    states = [task_status(grid, task, jobs).state for task in grid.tasks[:3]]
    assert states == ["waiting", "interrupted", "running"]


@pytest.mark.parametrize(
    ("word", "state"), [("TIMEOUT", "interrupted"), ("OUT_OF_MEMORY", "failed")]
)
def test_slurm_says_why_a_job_left_the_queue(
    grid: Grid, word: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    start(grid)
    attempt = read_attempt(grid, grid.tasks[0])
    assert attempt is not None and attempt.job == "8"
    status = task_status(grid, grid.tasks[0], Jobs({0: "7_0"}, {}, {0: word}))
    assert status.state == state and word in status.detail


def test_the_reason_is_the_last_error_of_the_last_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "=== started 2026-01-01\nerror: of an earlier start\n=== started 2026-01-02\n"
        "\x1b[31merror: the disk is full\x1b[0m\nsrun: error: n1: task 0: Exited with exit code 1\n"
    )
    assert last_error(log) == "the disk is full"
    log.write_text("=== started\nTraceback (most recent call last):\nKeyError: 'mean'\n")
    assert last_error(log) == "KeyError: 'mean'"
    assert last_error(tmp_path / "none") == ""


def test_a_job_runs_its_task_until_it_has_finished(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(name: str, *flags: str) -> str:
        task_step([name, "tasks.json", "2", *flags])
        return capsys.readouterr().out

    freeze(grid, Path("tasks.json"))
    assert step("start").startswith("pretrain.train --arch vgg16")
    write_run(grid, 2, "interrupted")
    assert step("end", "--code", "1") == "requeue\n"
    step("start")
    write_run(grid, 2, "running", age=60)
    assert step("end", "--code", "143") == ""  # nothing was saved: it might never end
    step("start")
    write_run(grid, 2, "finished")
    assert step("end", "--code", "0") == ""
    assert step("start") == ""


def test_status_shows_epoch_accuracy_and_reason(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(grid, 0, "running", epoch=3, best_top1=0.5, eta_seconds=90.0)
    write_run(grid, 1, "finished", epoch=9, best_top1=0.02, converged=False)
    write_run(grid, 2, "failed", reason="the loss became nan")
    print_status(["grid.yaml"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:5] == ["0", "vgg11", "running", "3/9", "50.00%"]
    assert "finished" in lines[2] and "2.00% (chance)" in lines[2]
    assert lines[3].split()[2] == "failed" and "the loss became nan" in lines[3]
    assert lines[-1] == "grid: 4 tasks: 1 finished, 1 running, 1 waiting, 1 failed"
    print_status(["grid.yaml", "--json", "--only", "failed"])
    assert json.loads(capsys.readouterr().out)["name"] == "vgg16"


def test_failed_tasks_are_started_only_on_request(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, state in enumerate(("finished", "failed", "interrupted")):
        write_run(grid, index, state)

    def names(only: tuple[str, ...] = (), retry_failed: bool = False) -> list[str]:
        selected = select_tasks(grid_statuses(grid), only=only, retry_failed=retry_failed)
        return [status.task.name for status in selected]

    assert names() == ["vgg16", "vgg19"]
    assert names(retry_failed=True) == ["vgg13"]
    assert names(only=("*9",)) == ["vgg19"]
    with pytest.raises(UserError, match="no task matches 'resnet'"):
        names(only=("resnet",))
    with pytest.raises(SystemExit):
        submit(["grid.yaml", "--dry-run", "--restart"])
    assert "--restart needs --retry-failed" in capsys.readouterr().err


def test_a_restarted_task_keeps_its_old_folder_aside(grid: Grid) -> None:
    write_run(grid, 1, "failed")
    move_aside(grid, [task_status(grid, grid.tasks[1])])
    assert not grid.tasks[1].folder.exists()
    (aside,) = (grid.launch_folder / "aside").iterdir()
    assert (aside / "status.json").exists()
    assert task_status(grid, grid.tasks[1]).state == "waiting"
