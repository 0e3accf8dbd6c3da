"""The sbatch scripts: a job array of tasks with equal resources, and the job that collects."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.programs import Program, find_program
from launch.resources import Resources
from launch.start import slurm_start
from launch.tasks import Grid

_PORTS = (20_000, 12_000)  # first, count; below 32,768, from where Linux hands them out by itself


def array_script(
    grid: Grid,
    tasks_file: Path,
    indices: Sequence[int],
    folder: Path,
    throttle: int | None,
    offset: int = 0,
) -> str:
    """A job array over `indices`, which share their resources; jobs work in `folder`.

    The array counts from `offset` on, since SLURM bounds its numbers.
    """
    first = grid.tasks[indices[0]]
    resources, found = first.resources, find_program(first.program)
    limit = f"%{throttle}" if throttle else ""
    options = [
        f"--job-name={grid.name}",
        f"--array={spell_indices([index - offset for index in indices])}{limit}",
        _output(grid, "%A_%a"),
        "--open-mode=append",
        "--requeue",
        f"--signal=TERM@{grid.slurm.signal_seconds}",
        *_resource_options(resources),
        *grid.slurm.options,
    ]
    in_container = f"{grid.slurm.container} " if grid.slurm.container else ""
    cpus = f"--cpus-per-task={resources.cpus} " if resources.cpus else ""
    after = ["if [ $code = 0 ]; then task after; code=$?; fi"] if grid.after_task else []
    port, ports = _PORTS
    return "\n".join(
        [
            "#!/bin/bash",
            f"# {len(indices)} tasks of {grid.name}; written by python -m launch.slurm.",
            f"# Their numbers and names: python -m launch.grid {shlex.quote(str(tasks_file))}",
            *(f"#SBATCH {option}" for option in options),
            "",
            *_opening(grid, folder),
            f"tasks={shlex.quote(str(tasks_file))}",
            f"index={f'$((SLURM_ARRAY_TASK_ID + {offset}))' if offset else '$SLURM_ARRAY_TASK_ID'}",
            "task() { step=$1; shift; " + in_container + 'python -m launch.task "$step" "$tasks" '
            '"$index" "$@"; }',
            "",
            "log=$(task log) || exit",
            'exec >>"$log" 2>&1',
            "command=$(task start) || exit",
            '[ -n "$command" ] || exit 0  # finished before',
            "",
            "# SLURM signals this shell only when it ends or requeues the job itself.",
            "told_to_end=; trap 'told_to_end=yes' TERM",
            "MASTER_ADDR=$(hostname)  # the script runs on the first node",
            f"MASTER_PORT=$(({port} + SLURM_JOB_ID % {ports}))",
            *_why_trap(found),
            'step="' + "\n".join(slurm_start(found, resources)) + '"',
            f"srun --nodes={resources.nodes} --ntasks-per-node=1 {cpus}--kill-on-bad-exit=1 \\",
            f'  {in_container}bash -c "$step"',
            "code=$?",
            *after,
            "",
            'verdict=$(task end --code "$code")',
            'if [ "$verdict" = interrupted ] && [ -z "$told_to_end" ]; then',
            '  scontrol requeue "$SLURM_JOB_ID"  # saved: goes on where it stopped',
            "fi",
            'exit "$code"',
            "",
        ]
    )


def collect_script(grid: Grid, tasks_file: Path, folder: Path) -> str:
    """The job after all others: the tables, and whatever the grid wants in the end."""
    in_container = f"{grid.slurm.container} " if grid.slurm.container else ""
    collect = f"python -m launch.collect {shlex.quote(str(tasks_file))}"
    # Those of the tasks ask for GPUs and nodes; what only says where and for whom is kept.
    kept = [o for o in grid.slurm.options if o.split("=")[0] in _WHERE]
    options = [
        f"--job-name={grid.name}-collect",
        _output(grid, "collect-%j"),
        "--nodes=1",
        "--ntasks=1",
        *kept,
    ]
    commands = [collect, *grid.after_all]
    return "\n".join(
        [
            "#!/bin/bash",
            f"# After the tasks of {grid.name}; written by python -m launch.slurm.",
            *(f"#SBATCH {option}" for option in options),
            "",
            *_opening(grid, folder),
            "code=0",
            *(f"{in_container}{command} || code=$?" for command in commands),
            'exit "$code"',
            "",
        ]
    )


def _why_trap(found: Program) -> list[str]:
    if found.launcher == "python":
        return []
    return ["# The launcher outlives a SIGTERM; the trainer hears it, saves, and both end."]


_WHERE = ("--partition", "--account", "--qos", "--reservation", "-p", "-A", "-q")


def spell_indices(indices: Sequence[int]) -> str:
    """SLURM's short form: 0-3,7."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _opening(grid: Grid, folder: Path) -> list[str]:
    setup = grid.slurm.setup.strip("\n").splitlines()
    if not setup and not grid.slurm.container:  # then with the Python that submits
        setup = [f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"]
    return [f"cd {shlex.quote(str(folder))} || exit", *setup, "export PYTHONUNBUFFERED=1"]


def _output(grid: Grid, pattern: str) -> str:
    """Where SLURM writes what is said before a task has its log; sbatch reads quotes as shells."""
    folder = str(grid.own.absolute() / "logs").replace("%", "%%")  # else a pattern of SLURM's
    return f"--output={shlex.quote(f'{folder}/slurm-{pattern}.log')}"


def _resource_options(resources: Resources) -> list[str]:
    options = [f"--nodes={resources.nodes}", "--ntasks-per-node=1"]
    if resources.gpus:
        options.append(f"--gpus-per-node={resources.gpus}")
    if resources.cpus is not None:
        options.append(f"--cpus-per-task={resources.cpus}")
    if resources.memory is not None:
        options.append(f"--mem={resources.memory}")
    if resources.time is not None:
        options.append(f"--time={resources.time}")
    return options
