"""A grid, shards, and a real SLURM of two nodes on this host, for the tests of launch."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from waiting import wait_for
from written_sets import write_set

from downstream.demo.__main__ import SYNTHETIC_SIZE, DemoConfig
from launch.tasks.grid import build_grid
from launch.tasks.task_list import Grid
from shards.synthetic.__main__ import main as draw_corpus

DAEMONS = ("munged", "slurmctld", "slurmd")


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """Four tasks of pretrain.train, none started, of grid.yaml in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    text = "program: pretrain.train\nroot: out\naxes: {arch: [vgg11, vgg13, vgg16, vgg19]}\n"
    Path("grid.yaml").write_text(text)
    return build_grid(Path("grid.yaml"))


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 training and 8 validation images of two classes that differ in brightness."""
    folder, out = (tmp_path_factory.mktemp("shards") / name for name in ("corpus", "set"))
    rng = np.random.default_rng(1)
    for name, mean in (("bright", 160), ("dark", 90)):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.uint8(np.clip(rng.normal(mean, 25, (48, 48)), 0, 255))
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    write_set(folder, out, profile="exact", val_per_class=4)
    return out


@pytest.fixture(scope="session")
def demo_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of `make demo`: 960 training and 240 validation micrographs of 12 classes."""
    drawn, out = (tmp_path_factory.mktemp("demo") / name for name in ("drawn", "shards"))
    each, size = str(DemoConfig().images_per_class), str(SYNTHETIC_SIZE)
    draw_corpus(["--out", str(drawn), "--images-per-class", each, "--size", size])
    write_set(drawn / "corpus", out, max_side=2 * SYNTHETIC_SIZE)
    return out


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """A controller and the nodes n1 and n2."""
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
                wait_for((folder / "munge.socket").exists, seconds=30)
        wait_for(_nodes_are_idle, seconds=60)
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
