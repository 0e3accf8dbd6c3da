"""The container recipes match the project: its files, extras and Python versions.

Building an image takes 8 GB and a network, so only what may become outdated is tested here.
"""

import re
import shlex
import subprocess
import tomllib

import pytest
from checkout import ROOT
from packaging.specifiers import SpecifierSet

DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = (ROOT / "containers" / "apptainer.def").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
# What a wheel is built from, and what is used to install it.
NEEDED = {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", "configs"}
NEEDED |= set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])


def instructions() -> list[list[str]]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in joined.splitlines() if line[:1].isupper()]


def section(name: str) -> str:
    (found,) = re.findall(rf"^%{name}\n((?:(?:[ ].*)?\n)+)", APPTAINER, re.MULTILINE)
    return str(found)


def test_docker_copies_what_the_project_is_built_from() -> None:
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
def test_a_container_has_pinned_dependencies_and_can_train(text: str) -> None:
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
