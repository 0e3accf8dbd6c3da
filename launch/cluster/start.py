"""The shell lines that start a program, with a launcher on each node that survives SIGTERM.

SLURM signals every process of a step. If the launcher died, the step would end before the trainer
has saved. So the shell ignores SIGTERM, the launcher inherits this, and only the trainer, which has
its own handler, reacts. torch's launcher of several processes has a handler too, which kills its
workers after 30 s; since these get the signal anyway, it is switched off. Programs that save
nothing are started without any of this, and end.
"""

import sys

from launch.tasks.programs import Program
from launch.tasks.resources import Resources

_IGNORE_SIGTERM = "trap '' TERM"
_LEAVE_SIGTERM = "export PET_SIGNALS_TO_HANDLE=SIGINT"


# The trainer sets the precision itself; without these flags accelerate warns of its defaults.
_PLAIN = "--quiet --mixed_precision no --dynamo_backend no"
_ONE = "--num_machines 1 --num_processes 1"


def slurm_start(program: Program, resources: Resources) -> list[str]:
    """Lines for each node of a SLURM job; `$command` is the task's command."""
    if program.launcher == "python":
        return ["exec python -m $command"]
    return [_IGNORE_SIGTERM, *_accelerate(resources)]


def _accelerate(resources: Resources) -> list[str]:
    if resources.gpus == 0:
        ranks = [
            # On a CPU, `accelerate launch` starts one process, with these variables.
            f"export WORLD_SIZE={resources.nodes} RANK=\\$SLURM_PROCID LOCAL_RANK=0",
            "export LOCAL_WORLD_SIZE=1 MASTER_ADDR=$MASTER_ADDR MASTER_PORT=$MASTER_PORT",
        ]
        launch = f"exec accelerate launch {_PLAIN} {_ONE} --cpu --module $command"
        return [*(ranks if resources.nodes > 1 else []), launch]
    processes = resources.nodes * resources.gpus
    if processes == 1:
        return [f"exec accelerate launch {_PLAIN} {_ONE} --module $command"]
    return [
        f"{_LEAVE_SIGTERM}  # torch's launcher: leave SIGTERM to the trainers",
        f"exec accelerate launch {_PLAIN} --multi_gpu --num_processes {processes} \\",
        f"  --num_machines {resources.nodes} --machine_rank \\$SLURM_NODEID \\",
        "  --main_process_ip $MASTER_ADDR --main_process_port $MASTER_PORT --module $command",
    ]


def local_start(program: Program, gpus: int, port: int) -> str:
    """The start of a command line on this machine, with a process for each of `gpus`."""
    if program.launcher == "python":
        return f"{sys.executable} -m"
    if gpus <= 1:  # one process needs no launcher
        return f"{_IGNORE_SIGTERM}; {sys.executable} -m"
    return (
        f"{_IGNORE_SIGTERM}; {_LEAVE_SIGTERM}; "
        f"{sys.executable} -m accelerate.commands.launch {_PLAIN} "
        f"--multi_gpu --num_processes {gpus} --main_process_port {port} --module"
    )
