"""The sbatch scripts: a job array of tasks with equal resources, and the last job."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.cluster.start import slurm_start
from launch.tasks.programs import find_program
from launch.tasks.resources import Resources
from launch.tasks.task_list import Grid

_PORTS = (20_000, 12_000)  # first, count; Linux assigns ports from 32,768 on


def array_script(
    grid: Grid,
    tasks_file: Path,
    indices: Sequence[int],
    folder: Path,
    throttle: int | None,
    offset: int = 0,
) -> str:
    """A job array of the tasks `indices`, which need equal resources and run in `folder`.

    Task `i` is number `i - offset` of the array, since SLURM limits these numbers.
    """
    first = grid.tasks[indices[0]]
    resources, program = first.resources, find_program(first.program)
    limit = f"%{throttle}" if throttle else ""
    options = [
        f"--job-name={grid.name}",
        f"--array={format_indices([index - offset for index in indices])}{limit}",
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
    comment = ["# The launcher ignores SIGTERM; the trainer saves on it, and both end."]
    if program.launcher == "python":
        comment = []
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
            '[ -n "$command" ] || exit 0  # has finished already',
            "",
            "# SLURM signals this shell only if it ends or requeues the job itself.",
            "terminated=; trap 'terminated=yes' TERM",
            "MASTER_ADDR=$(hostname)  # the script runs on the first node",
            f"MASTER_PORT=$(({port} + SLURM_JOB_ID % {ports}))",
            *comment,
            'step="' + "\n".join(slurm_start(program, resources)) + '"',
            f"srun --nodes={resources.nodes} --ntasks-per-node=1 {cpus}--kill-on-bad-exit=1 \\",
            f'  {in_container}bash -c "$step"',
            "code=$?",
            *after,
            "",
            'next=$(task end --code "$code")',
            'if [ "$next" = requeue ] && [ -z "$terminated" ]; then',
            '  scontrol requeue "$SLURM_JOB_ID"  # it saved, and continues where it stopped',
            "fi",
            'exit "$code"',
            "",
        ]
    )


def collect_script(grid: Grid, tasks_file: Path, folder: Path) -> str:
    """The job after all others, which collects the results and runs the grid's `after_all`."""
    in_container = f"{grid.slurm.container} " if grid.slurm.container else ""
    collect = f"python -m launch.collect {shlex.quote(str(tasks_file))}"
    # The other options may ask for GPUs or nodes, which this job does not need.
    kept = [option for option in grid.slurm.options if option.split("=")[0] in _ACCOUNTING]
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
            f"# Runs after the tasks of {grid.name}; written by python -m launch.slurm.",
            *(f"#SBATCH {option}" for option in options),
            "",
            *_opening(grid, folder),
            "code=0",
            *(f"{in_container}{command} || code=$?" for command in commands),
            'exit "$code"',
            "",
        ]
    )


_ACCOUNTING = ("--partition", "--account", "--qos", "--reservation", "-p", "-A", "-q")


def format_indices(indices: Sequence[int]) -> str:
    """Format indices in SLURM's short form: 0-3,7."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _opening(grid: Grid, folder: Path) -> list[str]:
    setup = grid.slurm.setup.strip("\n").splitlines()
    if not setup and not grid.slurm.container:  # use the Python that submits
        setup = [f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"]
    return [f"cd {shlex.quote(str(folder))} || exit", *setup, "export PYTHONUNBUFFERED=1"]


def _output(grid: Grid, pattern: str) -> str:
    """The log of what comes before a task's own log; sbatch parses quotes like a shell."""
    folder = str(grid.launch_folder.absolute() / "logs").replace("%", "%%")  # SLURM's patterns
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
