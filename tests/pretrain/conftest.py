"""A tiny shard set that the tests of pretrain share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.write import WriteConfig, write_shards

CLASSES = ("discs", "noise", "stripes")
PER_CLASS = 20
VAL_PER_CLASS = 4


def draw(name: str, rng: np.random.Generator, side: int = 64) -> np.ndarray:
    """A grey image whose class is plain to see."""
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
    write_shards(
        WriteConfig(
            source=str(corpus),
            out=str(out),
            profile="exact",
            shard_samples=20,
            workers=1,
            val_per_class=VAL_PER_CLASS,
        )
    )
    return out


@pytest.fixture
def tiny(shards: Path) -> list[str]:
    """Flags of a run that takes seconds: six steps an epoch."""
    flags = ["--arch", "resnet18", "--shards", str(shards), "--image-size", "32"]
    return [*flags, "--batch-size", "8", "--threads", "1", "--loader-threads", "1"]
