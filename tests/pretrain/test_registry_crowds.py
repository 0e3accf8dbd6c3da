"""Many publish to a registry at once, or one is killed at it: whole entries, each once."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.publish import publish
from pretrain.registry.__main__ import main as registry_main
from pretrain.registry.names import parse_name
from pretrain.registry.pull import pull
from pretrain.registry.stores import open_registry
from shards.cli import UserError
from tests.material.exports import make_export

# Where a registry is, and how many publish to it: the bucket's server takes a second for each.
CROWDS = pytest.mark.parametrize(
    ("root", "publishers"),
    [("folder", 30), ("s3", 10), pytest.param("s3", 30, marks=pytest.mark.slow)],
    indirect=["root"],
)

# Forks a process for each export; they wait for each other and then publish, under few names.
CROWD = """
import multiprocessing, sys
from pathlib import Path
from pretrain.publish import publish
registry, tags, *exports = sys.argv[1:]
def one(barrier, names, export, tag):
    barrier.wait()
    names.put(str(publish(Path(export), f"crowd-{tag}", registry)))
context = multiprocessing.get_context("fork")
barrier, names = context.Barrier(len(exports)), context.Queue()
arguments = [(barrier, names, export, n % int(tags)) for n, export in enumerate(exports)]
processes = [context.Process(target=one, args=each) for each in arguments]
for process in processes: process.start()
published = [names.get(timeout=240) for _ in processes]
for process in processes: process.join()
print(*published)
"""


@pytest.fixture(params=["folder", "s3"])
def root(
    request: pytest.FixtureRequest,
    s3_bucket: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """A registry on a disk or in a bucket, and a cache of one's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "folder":
        return str(tmp_path / "registry")
    s3_bucket("encoders")
    return "s3://encoders/deep/registry"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return make_export(tmp_path / "export")


def entries(root: str) -> dict[str, tuple[int, ...]]:
    return open_registry(root).entries()


@CROWDS
def test_many_publish_at_once(root: str, publishers: int, tmp_path: Path) -> None:
    # Of one name the last would try them all: in a bucket, five each.
    names = publishers // 5 if root.startswith("s3:") else 1
    exports = [make_export(tmp_path / f"export-{n}", config={"seed": n}) for n in range(publishers)]
    told = _publish_at_once(root, exports, names)
    versions = tuple(range(1, publishers // names + 1))
    wanted = {f"resnet18.crowd-{n}": versions for n in range(names)}
    assert entries(root) == wanted
    assert told == sorted(f"{name}@{version}" for name in wanted for version in versions)
    registry_main(["verify", "--registry", root])


def _publish_at_once(root: str, exports: list[Path], names: int) -> list[str]:
    command = [sys.executable, "-c", CROWD, root, str(names), *map(str, exports)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return sorted(result.stdout.split())


@CROWDS
def test_many_that_publish_the_same_at_once_make_one_version(
    export: Path, root: str, publishers: int
) -> None:
    told = _publish_at_once(root, [export] * publishers, names=1)
    assert told == ["resnet18.crowd-0@1"] * publishers
    assert entries(root) == {"resnet18.crowd-0": (1,)}
    registry_main(["verify", "--registry", root])


def test_what_is_there_is_not_published_again(
    export: Path, root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(export, "first", root)
    seal = open_registry(root).read(parse_name("resnet18.first@1"), ["entry.json"])
    other = make_export(tmp_path / "other", metrics={"top1": 0.5, "loss": float("nan"), "epoch": 3})
    assert str(publish(other, "first", root)) == "resnet18.first@2"
    time.sleep(1.1)  # the seal tells seconds
    capsys.readouterr()
    assert str(publish(export, "first", root)) == "resnet18.first@1"
    assert "is there already" in capsys.readouterr().err
    assert str(publish(other, "first", root)) == "resnet18.first@2"
    measured_anew = make_export(tmp_path / "anew", timm_difference=1e-7)
    assert str(publish(measured_anew, "first", root)) == "resnet18.first@1"
    other_head = make_export(tmp_path / "head")
    (other_head / "timm" / "model.safetensors").write_bytes(b"other")
    assert str(publish(other_head, "first", root)) == "resnet18.first@3"
    assert seal == open_registry(root).read(parse_name("resnet18.first@1"), ["entry.json"])


# Publishes, and is killed when it has put so many files, in the midst of the next.
KILLED = """
import os, sys
from pathlib import Path
from pretrain.publish import publish
from shards.stores import filesystem
export, registry, left = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
fs, _ = filesystem(registry)
put = fs.put_file
def put_or_die(local, remote):
    global left
    left -= 1
    if left < 0:
        fs.pipe_file(remote, b"half")
        os.kill(os.getpid(), 9)
    put(local, remote)
fs.put_file = put_or_die
publish(export, "killed", registry)
"""


def test_a_publisher_killed_at_any_file_leaves_nothing_listed(
    export: Path, root: str, tmp_path: Path
) -> None:
    for files in (0, 4):
        command = [sys.executable, "-c", KILLED, str(export), root, str(files)]
        killed = subprocess.run(command, capture_output=True, text=True)
        assert killed.returncode == -9, killed.stderr
    assert entries(root) == {}
    other = make_export(tmp_path / "other", config={"lr": 0.02})
    assert str(publish(other, "killed", root)) == "resnet18.killed@2"
    assert entries(root) == {"resnet18.killed": (2,)}
    with pytest.raises(UserError, match=r"no resnet18\.killed@1; .* it has version 2"):
        pull("resnet18.killed@1", root)
    assert str(publish(export, "killed", root)) == "resnet18.killed@1"  # fills what was begun
    registry_main(["verify", "--registry", root])
