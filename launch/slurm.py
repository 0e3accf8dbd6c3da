"""Submits a grid to SLURM as readable job arrays, and a job that collects when all have ended.

    python -m launch.slurm GRID [--dry-run] [--throttle N] [--retry-failed] [--only NAME ...]

Tasks that are done, running or in the queue are left alone; preempted ones go on; failed ones wait
for --retry-failed. One array for each kind of resources, since all jobs of an array share them, or
several, where the cluster bounds an array's numbers.
"""

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.grid import load_grid
from launch.jobs import max_array_size, record_jobs
from launch.programs import absent_input, find_program
from launch.resources import Resources
from launch.script import array_script, collect_script, spell_indices
from launch.selection import add_flags, chosen_tasks, set_aside
from launch.state import TaskState, grid_states, spell_counts
from launch.tasks import Grid, Task, freeze
from pretrain.atomic import write_atomically
from shards.cli import ArgumentParser, UserError, console, program, warn


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description="Submit a grid to SLURM as job arrays.")
    parser.add_argument("grid", type=Path, help="YAML file of the grid")
    parser.add_argument("--dry-run", action="store_true", help="write the scripts, submit nothing")
    parser.add_argument("--throttle", type=int, metavar="N", help="run at most N tasks at once")
    add_flags(parser)
    parser.add_argument("--no-collect", action="store_true", help="no job that collects")
    arguments = parser.parse_args(argv)
    if arguments.throttle is not None and arguments.throttle < 1:
        raise UserError("--throttle must be at least 1")
    if not arguments.dry_run and shutil.which("sbatch") is None:
        raise UserError(
            "sbatch is not installed here; submit on the cluster's login node, look at the scripts "
            "with --dry-run, or use python -m launch.local"
        )
    grid = load_grid(arguments.grid)
    states = grid_states(grid)
    chosen = chosen_tasks(states, arguments)
    if not chosen:
        print(f"{grid.name}: nothing to submit ({spell_counts(states)})")
        return
    _tell_of_absent_inputs([state.task for state in chosen])
    if arguments.afresh and not arguments.dry_run:
        for state in chosen:
            set_aside(grid, state)
    scripts, collect = write_scripts(grid, chosen, arguments.throttle)
    for script in (*scripts, *([] if arguments.no_collect else [collect])):
        print(script)
    if arguments.dry_run:
        return
    jobs = [submit(grid, script, array) for script, array in scripts.items()]
    print(f"{grid.name}: {len(chosen)} tasks submitted as {', '.join(jobs)}")
    if not arguments.no_collect:
        after = f"--dependency=afterany:{':'.join(jobs)}"
        print(f"collecting when they have ended: {sbatch([after, str(collect)])}")
    watch = f"python -m launch.status {shlex.quote(str(arguments.grid))}"
    console.print(f"watch: {watch}", markup=False, soft_wrap=True)


def _tell_of_absent_inputs(tasks: Sequence[Task]) -> None:
    """A cluster's nodes see other disks, perhaps; else every task would wait only to fail."""
    absent: dict[str, list[str]] = {}
    for task in tasks:
        if path := absent_input(find_program(task.program), task.values):
            absent.setdefault(path, []).append(task.name)
    for path, names in absent.items():
        warn(
            f"{path} is not here; what reads it fails, unless it is on the compute nodes (first of "
            f"{len(names)}: {names[0]})"
        )


@dataclass(frozen=True, slots=True)
class Array:
    """Tasks that are submitted together."""

    indices: tuple[int, ...]
    offset: int  # what the numbers of the array's jobs are less than the tasks'


def write_scripts(
    grid: Grid, chosen: Sequence[TaskState], throttle: int | None
) -> tuple[dict[Path, Array], Path]:
    """Freeze the tasks; write the script of every array, and the collecting one, returned last."""
    folder = _new_folder(grid)
    tasks_file = folder / "tasks.json"
    freeze(grid, tasks_file)
    arrays = _arrays([state.task for state in chosen], max_array_size())
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
    (grid.own / "logs").mkdir(parents=True, exist_ok=True)  # SLURM opens its log before we run
    return scripts, collect


def _arrays(tasks: Sequence[Task], largest: int) -> list[Array]:
    """One for the tasks of each kind of resources and each `largest` indices."""
    groups: dict[tuple[Resources, int], list[int]] = {}
    for task in tasks:
        groups.setdefault((task.resources, task.index // largest), []).append(task.index)
    return [Array(tuple(indices), block * largest) for (_, block), indices in groups.items()]


def submit(grid: Grid, script: Path, array: Array) -> str:
    """Submit an array script; returns its job id, which is recorded."""
    job = sbatch([str(script)])
    record_jobs(grid, job, array.indices, array.offset)
    console.print(f"job {job}: tasks {spell_indices(array.indices)}", markup=False)
    return job


def sbatch(arguments: Sequence[str]) -> str:
    """Run sbatch; returns the job id. Raises `UserError` with its complaint."""
    result = subprocess.run(["sbatch", "--parsable", *arguments], capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"sbatch refused {arguments[-1]}: {result.stderr.strip()}")
    return result.stdout.strip().split(";")[0]  # JOB[;CLUSTER]


def _share(throttle: int | None, sizes: Sequence[int]) -> list[int | None]:
    """What each array may run at once: SLURM throttles arrays one by one."""
    if throttle is None:
        return [None] * len(sizes)
    shares = [max(1, throttle * size // sum(sizes)) for size in sizes]
    if sum(shares) > throttle:
        warn(
            f"--throttle {throttle} is too low for {len(sizes)} job arrays, which are throttled "
            f"one by one: up to {sum(shares)} tasks may run at once"
        )
    return list(shares)


def _new_folder(grid: Grid) -> Path:
    """An unused folder for a submission's files."""
    for number in range(1, 10_000):
        folder = grid.own / f"submission-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise UserError(f"{grid.own} holds 10,000 submissions; delete old ones")


if __name__ == "__main__":
    main()
