"""Shards, and a real SLURM of two nodes on this host, that the tests of launch share."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from downstream.demo.__main__ import SYNTHETIC_SIZE, DemoConfig
from shards.synthetic import main as draw_corpus
from shards.write import WriteConfig, write_shards

Wait = Callable[..., None]
DAEMONS = ("munged", "slurmctld", "slurmd")


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 training and 8 validation images of two classes that differ in brightness."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(1)
    for name, mean in (("bright", 160), ("dark", 90)):
        (folder / name).mkdir()
        for number in range(20):
            pixels = np.uint8(np.clip(rng.normal(mean, 25, (48, 48)), 0, 255))
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    out = tmp_path_factory.mktemp("set") / "shards"
    write_shards(
        WriteConfig(source=str(folder), out=str(out), profile="exact", workers=1, val_per_class=4)
    )
    return out


@pytest.fixture(scope="session")
def demo_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` trains on: 960 training and 240 validation micrographs of 12 classes."""
    drawn, out = (tmp_path_factory.mktemp("demo") / name for name in ("drawn", "shards"))
    each, size = str(DemoConfig().images_per_class), str(SYNTHETIC_SIZE)
    draw_corpus(["--out", str(drawn), "--images-per-class", each, "--size", size])
    write_shards(
        WriteConfig(source=str(drawn / "corpus"), out=str(out), max_side=2 * SYNTHETIC_SIZE)
    )
    return out


@pytest.fixture(scope="session")
def wait_until() -> Wait:
    """Returns when a condition holds; fails, saying until what it waited, after some seconds."""
    return _wait


def _wait(condition: Callable[[], bool], what: str, seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s until {what}"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """A controller and the nodes n1 and n2, ended with the tests."""
    missing = [name for name in DAEMONS if shutil.which(name, path=_search_path()) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (Debian: slurm-wlm and munge)")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        environment.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        environment.setenv("PATH", _search_path())
        (folder / "slurm.conf").write_text(_configuration(folder))
        (folder / "state").mkdir()
        for command in _daemons(folder):
            stack.enter_context(_daemon(command, folder))
            if command[0] == "munged":
                _wait((folder / "munge.socket").exists, "munge answers", 30)
        _wait(_nodes_are_idle, "both nodes are idle", 60)
        yield
        subprocess.run(["scancel", "--me"], check=True)


def _search_path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin"


def _daemons(folder: Path) -> list[list[str]]:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file")]
    munge += [f"--key-file={key}", f"--log-file={folder}/munge.log"]
    munge += [f"--seed-file={folder}/munge.seed", "--force", "--foreground"]
    return [
        ["munged", *munge],
        ["slurmctld", "-D", "-i"],
        *(["slurmd", "-D", "-N", node] for node in ("n1", "n2")),
    ]


@contextmanager
def _daemon(command: list[str], folder: Path) -> Iterator[None]:
    """A daemon that ends with the block."""
    with (folder / f"{command[0]}-{command[-1].strip('-')}.out").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _nodes_are_idle() -> bool:
    listing = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%T"], capture_output=True, text=True
    )
    return listing.stdout.split() == ["idle", "idle"]


def _configuration(folder: Path) -> str:
    ports = [_free_port() for _ in range(3)]
    host, user = socket.gethostname().split(".")[0], getpass.getuser()
    return f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits until its credential has expired: 120 s by default, 5 at least.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# A requeued job may start again at once; two tasks share a node.
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
