"""The `micrograph` command: its map is complete, and each program shows the name it was run by."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import ROOT

from micrograph.__main__ import PROGRAMS, program_map

# What other programs start, by its module.
INTERNAL = {"launch.task", "pretrain.loading.decoder_check"}


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "micrograph", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_every_program_is_on_the_map() -> None:
    programs = set()
    for package in ("shards", "pretrain", "downstream", "launch"):
        for path in (ROOT / package).rglob("*.py"):
            if re.search(r'^if __name__ == "__main__":', path.read_text("utf-8"), re.MULTILINE):
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                programs.add(module.removesuffix(".__main__"))
    listed = [module for stage in PROGRAMS.values() for module, _ in stage.values()]
    assert sorted(listed) == sorted(programs - INTERNAL)
    assert len({name for stage in PROGRAMS.values() for name in stage}) == len(listed)


def test_the_map_fits_a_terminal_and_comes_at_once() -> None:
    started = time.monotonic()
    shown = run("--help")
    assert time.monotonic() - started < 5  # seconds on a busy machine; alone 0.3
    assert shown.stdout == program_map() + "\n" == run().stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_usage_and_errors_name_the_command() -> None:
    assert run("archs", "--help").stdout.startswith("usage: micrograph archs [options]\n")
    wrong = run("staging", "--cache", "x")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: unknown flag '--cache'; nearest is '--cache-dir'\n"


def test_unknown_program_names_the_nearest() -> None:
    wrong = run("segmnt", "--data", "x")
    assert wrong.returncode == 2
    assert wrong.stderr == "error: unknown program 'segmnt'; nearest is 'segment'\n"


def test_worker_processes_start_under_the_command(tmp_path: Path) -> None:
    drawn = run("synthetic", "--out", str(tmp_path / "drawn"), "--images-per-class", "2")
    assert drawn.returncode == 0, drawn.stderr
    source, out = tmp_path / "drawn" / "corpus", tmp_path / "set"
    written = run("write", "--source", str(source), "--out", str(out), "--workers", "2")
    assert written.returncode == 0, written.stderr
    assert (out / "manifest.json").is_file()


@pytest.mark.parametrize("module", ["micrograph", "shards", "pretrain", "downstream", "launch"])
def test_packages_say_that_they_are_typed(module: str) -> None:
    assert (ROOT / module / "py.typed").is_file()
