"""The container recipes name what is there: files, extras, and a Python that the project takes.

Building one takes 8 GB and a network; what can go stale when the project changes is tested here.
"""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = (ROOT / "containers" / "apptainer.def").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What a wheel is built of, and what it is installed with.
NEEDED = {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", "configs"}
NEEDED |= {"micrograph", "shards", "pretrain", "downstream", "launch"}


def instructions() -> list[list[str]]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in joined.splitlines() if line[:1].isupper()]


def section(name: str) -> str:
    (found,) = re.findall(rf"^%{name}\n((?:(?:[ ].*)?\n)+)", APPTAINER, re.MULTILINE)
    return str(found)


def test_docker_copies_what_the_project_is_built_of() -> None:
    copied = {source for word, *sources in instructions() if word == "COPY" for source in sources}
    assert {source for source in copied if source != "./"} == NEEDED
    lines = (ROOT / "containers" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == NEEDED
    assert all((ROOT / source).exists() for source in NEEDED)


def test_apptainer_copies_the_same() -> None:
    pairs = [line.split() for line in section("files").split("\n") if line]
    assert {source for source, _ in pairs} == NEEDED
    assert all(target == f"/opt/micrograph-pretrain/{source}" for source, target in pairs)


@pytest.mark.parametrize("text", [DOCKERFILE, APPTAINER], ids=["docker", "apptainer"])
def test_a_container_is_pinned_and_takes_all_that_training_needs(text: str) -> None:
    assert "--constraint constraints.txt" in text
    (extras,) = re.findall(r"(?:EXTRAS=|'\.\[)([a-z0-9,]+)", text)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    assert "train" in extras.split(",")
    (version,) = re.findall(r"^(?:ARG BASE=|From: )python:([\d.]+)-", text, re.MULTILINE)
    assert version in SpecifierSet(PROJECT["requires-python"])


def test_their_shell_lines_are_valid() -> None:
    scripts = [section(name) for name in ("post", "environment", "test")]
    joined = DOCKERFILE.replace("\\\n", " ")
    scripts += re.findall(r"^RUN (.*)$", joined, re.MULTILINE)
    assert len(scripts) == 6
    for script in scripts:
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)
