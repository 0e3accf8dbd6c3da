"""What the README shows works: its commands and its two lines, run as they stand there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from pictures import write_noise

from micrograph.settings import load_config
from shards.sources.recipe import read_corpus
from shards.write import WriteConfig

README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = (
    "--image-size 32 --epochs 1 --batch-size 8 --lr 0.01"  # so that efficientnet-b4 takes seconds
)


def commands(section: str) -> list[list[str]]:
    """The indented commands of a section."""
    text = README.split(f"## {section}\n")[1].split("\n## ")[0]
    return [
        shlex.split(line, comments=True) for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's working folder after the README's first commands."""
    work = tmp_path_factory.mktemp("user")
    write_noise(work / "my_images", ("austenite", "bainite"), per_class=10, side=48)
    found = [*commands("Prepare a corpus")[:1], *commands("Pre-train an encoder")]
    assert [command[0] for command in found] == ["python", "accelerate", "python", "python"]
    for command in found:
        run(command, work)
    return work


def run(command: list[str], work: Path) -> None:
    command = [str(ROOT / word) if word == "pretrain/train.py" else word for word in command]
    if command[0] == "accelerate":
        command += SMALL.split()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(
        command, cwd=work, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_corpus_commands_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fetch, write = commands("Prepare a corpus")
    assert plain[:3] == write[:3] == ["python", "-m", "shards.write"]
    assert fetch[:3] == ["python", "-m", "shards.fetch"]
    recipe = read_corpus(ROOT / "configs" / "corpora" / f"{fetch[3]}.yaml")
    monkeypatch.chdir(ROOT)
    config = load_config(WriteConfig, write[3:], recipe=recipe.settings)
    assert config.corpus is not None and read_corpus(config.corpus) == recipe


@pytest.mark.parametrize(
    ("number", "kind"), [(0, "Unet"), (1, "Unet"), (2, "EfficientNet"), (3, "dict")]
)
def test_the_lines_that_load_an_encoder(
    number: int, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(blocks[number], names)
    assert type(names["model" if kind != "dict" else "tensors"]).__name__ == kind
