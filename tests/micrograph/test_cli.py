"""What a user sees: one line for an error of theirs, a traceback for a bug."""

import re
import subprocess
import sys
from collections.abc import Sequence

import pytest

from micrograph.cli import (
    DEBUG_VARIABLE,
    ArgumentParser,
    UserError,
    console,
    log_with_time_and_rank,
    program,
    progress,
    warn,
)


def _exit_of(error: BaseException) -> int | str | None:
    """The exit code of a program that raises `error`."""

    @program
    def main(argv: Sequence[str] | None = None) -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        main([])
    return stopped.value.code


def test_user_error_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_of(UserError("no such folder: x;\n  make it")) == 2
    assert capsys.readouterr() == ("", "error: no such folder: x; make it\n")


def test_interrupt_exits_as_shells_expect() -> None:
    assert _exit_of(KeyboardInterrupt()) == 130


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        _exit_of(ZeroDivisionError())


def test_program_hands_its_arguments_on() -> None:
    seen: list[Sequence[str] | None] = []
    main = program(seen.append)
    main(["--out", "x"])
    main()
    assert seen == [["--out", "x"], None]


def test_bad_command_line_is_a_user_error() -> None:
    parser = ArgumentParser()
    parser.add_argument("folder")
    with pytest.raises(UserError, match=r"required: folder \(see --help\)"):
        parser.parse_args([])


def test_a_real_process_fails_in_one_line() -> None:
    command = [sys.executable, "-m", "shards.write", "--out", "unused"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == "error: give either --source or --corpus (see --help)\n"


def test_warnings_leave_stdout_clean(capsys: pytest.CaptureFixture[str]) -> None:
    warn("3 files [of many] rejected")  # brackets are no markup
    captured = capsys.readouterr()
    assert captured.err == "warning: 3 files [of many] rejected\n"
    assert captured.out == ""


def test_progress_yields_every_item_in_order() -> None:
    assert list(progress(iter("abc"), "read")) == ["a", "b", "c"]


def test_progress_off_a_terminal_says_only_what_begins(
    capsys: pytest.CaptureFixture[str],
) -> None:
    list(progress([1, 2], "read"))
    assert capsys.readouterr().err == "read (2) …\n"


def test_a_reader_that_has_enough_is_no_error() -> None:
    code = "from micrograph.cli import program\nprogram(lambda argv: print(chr(120) * 10**6))()"
    result = subprocess.run(
        f'"{sys.executable}" -c "{code}" | head -c 1', shell=True, capture_output=True, check=False
    )
    assert (result.stdout, result.stderr) == (b"x", b"")


@pytest.mark.parametrize("error", [UserError("no folder x"), FileNotFoundError(2, "gone", "x")])
@pytest.mark.parametrize("flag", [True, False])
def test_debug_shows_the_traceback_before_the_line(
    error: Exception,
    flag: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, "0" if flag else "1")
    seen = []

    @program
    def main(argv: Sequence[str] | None = None) -> None:
        seen.append(argv)
        raise error

    with pytest.raises(SystemExit) as stopped:
        main(["--out", "x", *(["--debug"] if flag else [])])
    assert (stopped.value.code, seen) == (2, [["--out", "x"]])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and lines[-1].startswith("error: ")


@pytest.mark.parametrize(("world", "prefix"), [("1", ""), ("2", r" \[rank 1\]")])
def test_log_lines_of_a_training_carry_time_and_rank(
    world: str, prefix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setenv("RANK", "1")

    @program
    def main(argv: Sequence[str] | None = None) -> None:
        log_with_time_and_rank()
        warn("the loss is " + "not finite " * 20)
        console.print("epoch [b]1[/b]")
        print("result")

    main([])
    warn("after the training")
    shown = capsys.readouterr()
    first, second, last = shown.err.splitlines()
    assert re.fullmatch(rf"\d\d:\d\d:\d\d{prefix} warning: the loss is (not finite )+", first)
    assert re.fullmatch(rf"\d\d:\d\d:\d\d{prefix} epoch 1", second)
    assert (last, shown.out) == ("warning: after the training", "result\n")
