"""The files around the code agree with it: workflows, hooks, citation, changelog."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from checkout import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def tracked(*patterns: str) -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listing.stdout.splitlines()


def test_every_yaml_file_can_be_read() -> None:
    paths = tracked("*.yaml", "*.yml", "*.cff")
    assert len(paths) > 20
    for path in paths:
        assert yaml.safe_load((ROOT / path).read_text(encoding="utf-8")), path


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_commands_of_the_makefile(path: Path) -> None:
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake (\S+)", path.read_text())) <= set(targets)


def test_the_supported_pythons_are_tested() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    oldest, *_ = jobs["test"]["strategy"]["matrix"]["python"]
    assert PROJECT["requires-python"] == f">={oldest}"


def test_citation_and_changelog_name_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["title"], str(citation["version"])) == (PROJECT["name"], PROJECT["version"])
    assert len(citation["references"]) == 2
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[:2] == ["Unreleased", PROJECT["version"]]


def test_the_architecture_page_names_files_that_exist_and_every_subpackage() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = ("micrograph", "shards", "pretrain", "downstream", "launch")
    named = re.findall(rf"`((?:{'|'.join(packages)}|configs)/[\w./-]+)`", page)
    assert len(named) > 50 and all((ROOT / path).exists() for path in named)
    folders = [
        file.parent.name for name in packages for file in (ROOT / name).glob("*/__init__.py")
    ]
    assert len(folders) > 30 and [name for name in folders if f"{name}/`" not in page] == []
