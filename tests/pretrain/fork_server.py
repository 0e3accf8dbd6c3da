"""Forks trainers from a process that has imported what they need: ten seconds saved on each.

Reads a JSON order per line from stdin, `{"argv", "last", "log", "doing", "world", "stops"}`
(`last`: more flags, for the last process only). Answers with the process ids, then with the exit
status of each (as `Popen.returncode`). The trainer is the real one, in its own session; a listener
writes to the file `doing` which part it is in, and where `stops` names it, `[rank, phase, call,
signal]`, sends it a signal when it enters that phase for the `call`-th time: at a known point,
which a signal from outside would hit only by chance.
"""

import atexit
import itertools
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

import pretrain.outputs.plots  # noqa: F401 - imported late by the trainer
from pretrain import train as trainer
from pretrain.runs.phases import Phase, listen

_PARTS: dict[Phase, str] = {
    "start": "warm-up",
    "epoch": "training",
    "validate": "validation",
    "record": "saving",
    "stop": "saving",
    "end": "ended",
}


def serve() -> None:
    """Fork a trainer per line."""
    for line in sys.stdin:
        order = json.loads(line)
        world, port = order["world"], _free_port()
        children = []
        for rank in range(world):
            child = os.fork()
            if not child:
                if world > 1:
                    os.environ |= _environment(rank, world, port)
                argv = [*order["argv"], *(order["last"] if rank == world - 1 else ())]
                if order["stops"] and order["stops"][0] == rank:
                    _stop(*order["stops"][1:])
                _become_trainer(argv, Path(order["log"]), Path(order["doing"]))
            children.append(child)
        print(*children, flush=True)
        print(
            *(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True
        )


def _environment(rank: int, world: int, port: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    names = {name: str(number) for name, number in numbers.items()}
    return names | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _become_trainer(argv: list[str], log: Path, doing: Path) -> NoReturn:
    os.setsid()
    with log.open("a") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    file = os.open(doing, os.O_WRONLY)
    listen(lambda phase: _note(file, phase))
    status = 0
    try:
        trainer.main(argv)
    except SystemExit as end:
        status = int(end.code or 0)
    atexit._run_exitfuncs()
    _leave(status)


def _leave(status: int) -> NoReturn:
    """End without freeing memory object by object: two seconds of each trainer."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _note(file: int, phase: Phase) -> None:
    if phase in _PARTS:
        os.pwrite(file, _PARTS[phase].ljust(10).encode(), 0)


def _stop(phase: Phase, call: int, number: int) -> None:
    calls = itertools.count(1)

    def strike(entered: Phase) -> None:
        if entered == phase and next(calls) == call:
            signal.raise_signal(number)

    listen(strike)


if __name__ == "__main__":
    serve()
    _leave(0)
