"""Real surroundings that the tests of several packages share."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest


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
