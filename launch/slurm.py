"""Submits a grid to SLURM as readable job arrays, and a last job that collects the results.

    python -m launch.slurm GRID [--dry-run] [--throttle N] [--retry-failed] [--only NAME ...]

Finished, running and queued tasks are left alone; interrupted ones continue; failed ones need
--retry-failed. There is one array for each combination of resources, since all jobs of an array
share them, and several if the cluster limits the size of an array.
"""

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from launch.cluster.jobs import max_array_size, record_jobs
from launch.cluster.script import array_script, collect_script, format_indices
from launch.state.selection import Only, Restart, RetryFailed, check_flags, move_aside, select_tasks
from launch.state.state import TaskStatus, format_counts, grid_statuses
from launch.tasks.grid import load_grid
from launch.tasks.programs import find_program, missing_input
from launch.tasks.resources import Resources
from launch.tasks.task_list import Grid, Task, freeze
from micrograph.atomic import write_atomically
from micrograph.cli import UserError, console, program, warn
from micrograph.settings import Positional, load_config


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmConfig:
    """Submit a grid to SLURM as job arrays."""

    grid: Annotated[Path, Positional, "YAML file of the grid"]
    dry_run: Annotated[bool, "write the scripts, submit nothing"] = False
    throttle: Annotated[int | None, "how many tasks may run at once [the cluster's limit]"] = None
    collect: Annotated[bool, "collect the results in a last job"] = True
    retry_failed: RetryFailed = False
    restart: Restart = False
    only: Only = ()

    def __post_init__(self) -> None:
        check_flags(self.retry_failed, self.restart)
        if self.throttle is not None and self.throttle < 1:
            raise ValueError("--throttle must be at least 1")


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(SlurmConfig, argv)
    if not config.dry_run and shutil.which("sbatch") is None:
        raise UserError(
            "sbatch is not installed here; submit on the cluster's login node, look at the scripts "
            "with --dry-run, or use python -m launch.local"
        )
    grid = load_grid(config.grid)
    statuses = grid_statuses(grid)
    selected = select_tasks(statuses, only=config.only, retry_failed=config.retry_failed)
    if not selected:
        print(f"{grid.name}: nothing to submit ({format_counts(statuses)})")
        return
    _warn_of_missing_inputs([status.task for status in selected])
    if config.restart and not config.dry_run:
        move_aside(grid, selected)
    scripts, collect = write_scripts(grid, selected, config.throttle)
    for script in (*scripts, *([collect] if config.collect else [])):
        print(script)
    if config.dry_run:
        return
    jobs = [submit(grid, script, array) for script, array in scripts.items()]
    print(f"{grid.name}: {len(selected)} tasks submitted as {', '.join(jobs)}")
    if config.collect:
        after = f"--dependency=afterany:{':'.join(jobs)}"
        print(f"results are collected by {sbatch([after, str(collect)])}")
    watch = f"python -m launch.status {shlex.quote(str(config.grid))}"
    console.print(f"watch: {watch}", markup=False, soft_wrap=True)


def _warn_of_missing_inputs(tasks: Sequence[Task]) -> None:
    """Warn only, since compute nodes may see other disks; every such task may fail."""
    missing: dict[str, list[str]] = {}
    for task in tasks:
        if path := missing_input(find_program(task.program), task.values):
            missing.setdefault(path, []).append(task.name)
    for path, names in missing.items():
        warn(
            f"{path} does not exist here; {len(names)} tasks that read it (first: {names[0]}) fail "
            "unless it is on the compute nodes"
        )


@dataclass(frozen=True, slots=True)
class JobArray:
    """Tasks that are submitted together."""

    indices: tuple[int, ...]
    offset: int  # task index minus array index


def write_scripts(
    grid: Grid, selected: Sequence[TaskStatus], throttle: int | None
) -> tuple[dict[Path, JobArray], Path]:
    """Freeze the tasks, and write the script of each array and of the job that collects."""
    folder = _new_folder(grid)
    tasks_file = folder / "tasks.json"
    freeze(grid, tasks_file)
    arrays = _job_arrays([status.task for status in selected], max_array_size())
    shares = _share(throttle, [len(array.indices) for array in arrays])
    scripts = {}
    for number, (array, share) in enumerate(zip(arrays, shares, strict=True)):
        script = folder / f"array-{number}.sbatch"
        text = array_script(
            grid, tasks_file.absolute(), array.indices, Path.cwd(), share, array.offset
        )
        write_atomically(script, text.encode())
        scripts[script] = array
    collect = folder / "collect.sbatch"
    write_atomically(collect, collect_script(grid, tasks_file.absolute(), Path.cwd()).encode())
    (grid.launch_folder / "logs").mkdir(parents=True, exist_ok=True)  # SLURM opens its log first
    return scripts, collect


def _job_arrays(tasks: Sequence[Task], max_size: int) -> list[JobArray]:
    """An array for each combination of resources, and for each `max_size` task indices."""
    groups: dict[tuple[Resources, int], list[int]] = {}
    for task in tasks:
        groups.setdefault((task.resources, task.index // max_size), []).append(task.index)
    return [JobArray(tuple(indices), block * max_size) for (_, block), indices in groups.items()]


def submit(grid: Grid, script: Path, array: JobArray) -> str:
    """Submit an array's script and record its job id, which is returned."""
    job = sbatch([str(script)])
    record_jobs(grid, job, array.indices, array.offset)
    console.print(f"job {job}: tasks {format_indices(array.indices)}", markup=False)
    return job


def sbatch(arguments: Sequence[str]) -> str:
    """Run sbatch and return the job id. Raises `UserError` with sbatch's own message."""
    result = subprocess.run(["sbatch", "--parsable", *arguments], capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"sbatch refused {arguments[-1]}: {result.stderr.strip()}")
    return result.stdout.strip().split(";")[0]  # JOB[;CLUSTER]


def _share(throttle: int | None, sizes: Sequence[int]) -> list[int | None]:
    """How many tasks of each array may run at once: SLURM can only throttle an array."""
    if throttle is None:
        return [None] * len(sizes)
    shares = [max(1, throttle * size // sum(sizes)) for size in sizes]
    if sum(shares) > throttle:
        warn(
            f"--throttle {throttle} is too low for {len(sizes)} job arrays, which SLURM throttles "
            f"one by one: up to {sum(shares)} tasks may run at once"
        )
    return list(shares)


def _new_folder(grid: Grid) -> Path:
    """An unused folder for the files of a submission."""
    for number in range(1, 10_000):
        folder = grid.launch_folder / f"submission-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise UserError(f"{grid.launch_folder} holds 10,000 submissions; delete old ones")


if __name__ == "__main__":
    main()
