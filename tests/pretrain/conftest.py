"""A tiny shard set, and trainers that start fast, for the tests of pretrain."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from networks import SMALL_ARCH
from PIL import Image
from written_sets import write_set

CLASSES = ("discs", "noise", "stripes")
PER_CLASS = 20
VAL_PER_CLASS = 4


def draw(name: str, rng: np.random.Generator, side: int = 64) -> np.ndarray:
    """A grey image of a class that is easy to see."""
    y, x = np.mgrid[:side, :side] / side
    if name == "stripes":
        values = np.sin(2 * np.pi * rng.uniform(4, 8) * (x + rng.uniform()))
    elif name == "discs":
        values = np.cos(9 * np.hypot(y - rng.uniform(), x - rng.uniform()))
    else:
        values = rng.uniform(-1, 1, (side, side))
    return np.uint8(np.clip(127 + 100 * values, 0, 255))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(1)
    for name in CLASSES:
        (folder / name).mkdir()
        for number in range(PER_CLASS):
            Image.fromarray(draw(name, rng)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training and 12 validation images, grey, 64 px, lossless, in tars of 20."""
    out = tmp_path_factory.mktemp("set") / "shards"
    write_set(corpus, out, profile="exact", shard_samples=20, val_per_class=VAL_PER_CLASS)
    return out


@pytest.fixture(scope="session")
def even_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """144 training images and 36 for validation: in batches of four, it has two rounds."""
    folder = tmp_path_factory.mktemp("even")
    rng = np.random.default_rng(0)
    for name in ("noise", "stripes"):
        (folder / "corpus" / name).mkdir(parents=True)
        for number in range(90):
            pixels = rng.uniform(0, 255, (40, 40))
            if name == "stripes":  # faint, so that the best epoch is a late one
                pixels = 0.88 * pixels + 0.12 * rng.uniform(0, 255, (40, 1))
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / "corpus" / name / f"{number}.png")
    write_set(folder / "corpus", folder / "shards", profile="exact", val_per_class=18)
    return folder / "shards"


@pytest.fixture
def tiny(shards: Path) -> list[str]:
    """Flags of a run that takes seconds: six steps an epoch."""
    flags = ["--arch", SMALL_ARCH, "--shards", str(shards), "--image-size", "32"]
    return [*flags, "--batch-size", "8", "--threads", "1", "--loader-threads", "1"]


@pytest.fixture
def even(even_shards: Path) -> list[str]:
    """Flags of a run of a small net: nine steps an epoch, an epoch in a second or two."""
    flags = ["--arch", SMALL_ARCH, "--shards", str(even_shards), "--image-size", "64"]
    flags += ["--batch-size", "16", "--threads", "1", "--loader-threads", "1"]
    return [*flags, "--device", "cpu"]


class ForkServer:
    """Starts trainers by fork_server.py, one at a time."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process = process
        self._doing = folder / "doing"
        self.log = folder / "log"

    def start(
        self,
        argv: Sequence[str],
        world: int = 1,
        last: Sequence[str] = (),
        stops: tuple[int, str, int, int] | None = None,
    ) -> list[int]:
        """The process ids of a new trainer; `last`: more flags, for its last process only.

        `stops`: the rank of a process that sends itself a signal, in which phase
        (`pretrain.runs.phases`), on which entry to that phase, and the signal.
        """
        self._doing.write_text("")
        order = {"argv": [*argv], "log": str(self.log), "doing": str(self._doing)}
        order |= {"world": world, "last": [*last], "stops": stops}
        self._stdin.write(json.dumps(order) + "\n")
        self._stdin.flush()
        return self._answer()

    def part(self) -> str:
        """The current part of the training."""
        return self._doing.read_text().strip()

    def wait(self) -> list[int]:
        """The exit status of each process, when all have ended."""
        return self._answer()

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _answer(self) -> list[int]:
        assert self._process.stdout is not None
        return [int(word) for word in self._process.stdout.readline().split()]


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield ForkServer(process, tmp_path_factory.mktemp("fork_server"))
