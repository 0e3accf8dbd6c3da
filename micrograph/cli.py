"""Errors, warnings, log lines and progress bars of every program."""

import argparse
import functools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: saved; the same command resumes

T = TypeVar("T")
Main = Callable[[Sequence[str] | None], None]

EXIT_USER_ERROR = 2  # argparse's own code for a bad command line

# 1: show tracebacks. `--debug` sets it, so that the processes that a program starts inherit it.
DEBUG_VARIABLE = "MICROGRAPH_DEBUG"


class _LogConsole(Console):
    """A console whose lines may carry a prefix, as `12:03:41 [rank 1] `."""

    prefixed = False

    def print(self, *objects: Any, **options: Any) -> None:
        if self.prefixed and objects and isinstance(objects[0], str):
            # As `Text`: the brackets are no markup. Not folded: one event, one line.
            objects = (Text(log_prefix()), *objects)
            options.setdefault("soft_wrap", True)
        super().print(*objects, **options)


# Programs print results on stdout; bars, warnings and errors go here, so that pipes stay clean.
console = _LogConsole(stderr=True, highlight=False)


class UserError(Exception):
    """An error that the user can fix; the message says what was found and what to do."""


_called: list[str] = []  # the name that the `micrograph` command gave to this program


def call_program(name: str) -> None:
    """Show `name` in usage lines from here on."""
    _called[:] = [name]


def program_name() -> str:
    """How this program was started: `python -m shards.write`, `micrograph write`."""
    if _called:
        return _called[0]
    spec = sys.modules["__main__"].__spec__  # Python 3.14's argparse does the same
    if spec is None:
        return Path(sys.argv[0]).name
    return f"python -m {spec.name.removesuffix('.__main__')}"


class ArgumentParser(argparse.ArgumentParser):
    """argparse, but a bad command line is a `UserError`, and usage says `python -m`."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("prog", program_name())
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")


def program(main: Main) -> Callable[..., None]:
    """Turn a `UserError` or `OSError` that leaves `main` into one line on stderr, exit code 2.

    With `--debug`, or the environment variable MICROGRAPH_DEBUG=1, the traceback comes before it.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> None:
        arguments = sys.argv if argv is None else (argv := list(argv))
        while "--debug" in arguments:
            arguments.remove("--debug")
            os.environ[DEBUG_VARIABLE] = "1"
        try:
            main(argv)
            sys.stdout.flush()
        except UserError as error:
            _print_traceback()
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        except BrokenPipeError:  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
            sys.exit(141)  # 128 + SIGPIPE
        except OSError as error:  # a full disk, a missing permission: a traceback explains nothing
            _print_traceback()
            where = f" {error.filename}" if error.filename else ""
            print(f"error: cannot use{where}: {error.strerror or error}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        except KeyboardInterrupt:
            sys.exit(130)  # 128 + SIGINT, as shells report it
        finally:
            console.prefixed = False

    return run


def _print_traceback() -> None:
    if os.environ.get(DEBUG_VARIABLE, "0") != "0":
        traceback.print_exc()


def log_with_time_and_rank() -> None:
    """Put time and rank before what `console` and `warn` print, until the program ends.

    For trainings, whose log is a file of several processes. On the terminal of a single process
    lines stay as they are.
    """
    console.prefixed = not console.is_terminal or int(os.environ.get("WORLD_SIZE", "1")) > 1


def log_prefix() -> str:
    """`12:03:41`, with several processes `12:03:41 [rank 1]`."""
    now = time.strftime("%H:%M:%S")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return f"{now} [rank {os.environ.get('RANK', '0')}]" if several else now


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def warn(message: str) -> None:
    """Print one warning line on stderr."""
    console.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)


def progress_bar(*, visible: bool = True) -> Progress:
    """A bar with counts, elapsed and remaining time; hidden when stderr is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not (visible and console.is_terminal),
    )


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` under a progress bar; without a terminal, print only `description`."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    if not console.is_terminal:
        counted = f" ({total})" if total is not None else ""
        console.print(f"{description}{counted} …", markup=False)
    with progress_bar() as bar:
        task = bar.add_task(description, total=total, note="")
        for item in items:
            yield item
            bar.advance(task)
