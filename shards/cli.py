"""What every program of the project shares with the person at the terminal: errors and progress."""

import argparse
import functools
import os
import sys
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

T = TypeVar("T")
Main = Callable[[Sequence[str] | None], None]

EXIT_USER_ERROR = 2  # argparse's own code for a bad command line

# Programs print results on stdout; bars, warnings and errors go here, so that pipes stay clean.
console = Console(stderr=True, highlight=False)


class UserError(Exception):
    """Something the user can put right: says what was found and what to do, in one line."""


def program_name() -> str:
    """How this program was started, as `python -m shards.write`."""
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
    """Turn a `UserError` or `OSError` that leaves `main` into one line on stderr, exit code 2."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> None:
        try:
            main(argv)
            sys.stdout.flush()
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        except BrokenPipeError:  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
            sys.exit(141)  # 128 + SIGPIPE
        except OSError as error:  # a full disk, a missing right: nothing that a traceback explains
            where = f" {error.filename}" if error.filename else ""
            print(f"error: cannot use{where}: {error.strerror or error}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        except KeyboardInterrupt:
            sys.exit(130)  # 128 + SIGINT, as shells report it

    return run


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def warn(message: str) -> None:
    """Print one warning line on stderr."""
    console.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)


def progress_bar(*, visible: bool = True) -> Progress:
    """A bar with counts, elapsed and remaining time; silent where stderr is no terminal."""
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
    """Yield `items` under a progress bar; where stderr is no terminal, say only what begins."""
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
