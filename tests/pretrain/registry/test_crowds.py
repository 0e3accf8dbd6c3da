"""Many publish to a registry at once, or one is killed at it: complete entries, each once."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exports import make_export

from micrograph.cli import UserError
from pretrain.cards.entry_names import parse_name
from pretrain.export.publishing import publish
from pretrain.registry.__main__ import main as registry_main
from pretrain.registry.storage.folder_store import open_registry
from pretrain.registry.storage.pull import pull

# The registry, and how many publish to it: the bucket's server takes a second for each.
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

# Publishes, and is killed after so many files, in the midst of the next.
KILLED = """
import os, sys
from pathlib import Path
from pretrain.publish import publish
from micrograph.remote_files import filesystem
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


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, s3_bucket: Callable[[str], Any], tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "registry")
    s3_bucket("encoders")
    return "s3://encoders/deep/registry"


def publish_at_once(root: str, exports: list[Path], names: int) -> list[str]:
    command = [sys.executable, "-c", CROWD, root, str(names), *map(str, exports)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    registry_main(["verify", "--registry", root])
    return sorted(result.stdout.split())


@CROWDS
def test_many_publish_at_once(root: str, publishers: int, tmp_path: Path) -> None:
    # Of one name the last would try every number: in a bucket, five each.
    names = publishers // 5 if root.startswith("s3:") else 1
    exports = [make_export(tmp_path / f"export-{n}", config={"seed": n}) for n in range(publishers)]
    printed = publish_at_once(root, exports, names)
    versions = tuple(range(1, publishers // names + 1))
    wanted = {f"resnet18.crowd-{n}": versions for n in range(names)}
    assert open_registry(root).entries() == wanted
    assert printed == sorted(f"{name}@{version}" for name in wanted for version in versions)


@CROWDS
def test_many_that_publish_the_same_at_once_make_one_version(
    export: Path, root: str, publishers: int
) -> None:
    printed = publish_at_once(root, [export] * publishers, names=1)
    assert printed == ["resnet18.crowd-0@1"] * publishers
    assert open_registry(root).entries() == {"resnet18.crowd-0": (1,)}


def test_equal_content_is_not_published_again(
    export: Path, root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def entry() -> list[bytes]:
        return open_registry(root).read(parse_name("resnet18.first@1"), ["entry.json"])

    def version(folder: Path) -> int | None:
        return publish(folder, "first", root).version

    assert version(export) == 1
    before = entry()
    other = make_export(tmp_path / "other", metrics={"top1": 0.5, "loss": float("nan"), "epoch": 3})
    assert version(other) == 2
    time.sleep(1.1)  # the manifest's time is in seconds
    capsys.readouterr()
    assert version(export) == 1
    assert "already published" in capsys.readouterr().err
    assert version(other) == 2
    assert version(make_export(tmp_path / "measured-anew", timm_difference=1e-7)) == 1
    other_head = make_export(tmp_path / "head")
    (other_head / "timm" / "model.safetensors").write_bytes(b"other")
    assert version(other_head) == 3
    assert entry() == before


def test_a_publisher_killed_at_any_file_leaves_nothing_listed(
    export: Path, root: str, tmp_path: Path
) -> None:
    for files in (0, 4):
        command = [sys.executable, "-c", KILLED, str(export), root, str(files)]
        killed = subprocess.run(command, capture_output=True, text=True)
        assert killed.returncode == -9, killed.stderr
    assert open_registry(root).entries() == {}
    other = make_export(tmp_path / "other", config={"lr": 0.02})
    assert str(publish(other, "killed", root)) == "resnet18.killed@2"
    assert open_registry(root).entries() == {"resnet18.killed": (2,)}
    with pytest.raises(UserError, match=r"no resnet18\.killed@1; .* it has version 2"):
        pull("resnet18.killed@1", root)
    assert str(publish(export, "killed", root)) == "resnet18.killed@1"  # completes what was begun
    registry_main(["verify", "--registry", root])
