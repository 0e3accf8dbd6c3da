"""Real surroundings that the tests of several packages share."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flaky_server import Origin, serving

from micrograph import download
from micrograph.remote_files import filesystem

# Tests are so small that threads wait for each other, and they spin while they wait: a probe took
# three times the processor time on a busy machine. Read when numpy and torch are first imported,
# here and in the programs that tests start.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Whatever count the training of an earlier test has left behind."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a GPU warnings are no errors: cuDNN and compilers have advice that differs by version."""
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.filterwarnings("default"))


class SmallDisk:
    """A file system of its own, in memory, that can grow."""

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self.folder = folder
        self.kilobytes = kilobytes
        self._mount(f"size={kilobytes}k")

    def grow(self, kilobytes: int) -> None:
        self.kilobytes = kilobytes
        self._mount(f"remount,size={kilobytes}k")

    def _mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], SmallDisk]]:
    """Makes a disk of so many kilobytes."""
    with ExitStack() as stack:

        def make(kilobytes: int) -> SmallDisk:
            folder = tmp_path / "disk"
            folder.mkdir()
            try:
                disk = SmallDisk(folder, kilobytes)
            except (OSError, subprocess.CalledProcessError):
                pytest.skip("mounting a file system needs root")
            stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
            return disk

        yield make


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of an S3 store: moto's server, a real endpoint."""
    pytest.importorskip("s3fs", reason="needs pip install '.[s3]'")
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    # Amazon's conditional writes are atomic; moto looks and writes in two steps.
    put, lock = S3Response.put_object, threading.Lock()

    def put_atomically(self: Any) -> Any:
        with lock:
            return put(self)

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Response, "put_object", put_atomically)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Makes an empty bucket of a name, in a store that the environment leads to as a user's does.

    Gives the store's file system.
    """
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with ExitStack() as stack:

        def make(name: str) -> Any:
            filesystem(f"s3://{name}")[0].clear_instance_cache()
            fs, _ = filesystem(f"s3://{name}")
            fs.mkdir(name)
            stack.callback(fs.rm, name, recursive=True)
            return fs

        yield make


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    """A server that is asked again at once."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    with serving() as server:
        yield server
