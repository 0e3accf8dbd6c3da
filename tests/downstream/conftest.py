"""Labelled images for the tests: drawn squares, and paper A's benchmark where it is at hand."""

import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pictures import save_labelled
from PIL import Image
from real_images import published_sets
from toy_domains import config, toy  # noqa: F401 - fixtures


def draw_squares(folder: Path, per_split: int = 2) -> Path:
    """Bright squares on a dark ground, 64 x 80 pixels, index masks, three splits."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in (split, f"{split}_annot"):
            (folder / name).mkdir(parents=True)
        for number in range(per_split):
            mask = np.zeros((64, 80), np.uint8)
            top, left = rng.integers(0, 32, 2)
            mask[top : top + 28, left : left + 28] = 1
            save_pair(folder, split, f"{split}{number}", mask)
    return folder


def save_pair(folder: Path, split: str, name: str, mask: npt.NDArray[np.uint8]) -> None:
    rng = np.random.default_rng(len(name))
    image = 60 + 120 * (mask > 0) + rng.integers(0, 20, mask.shape)
    Image.fromarray(image.astype(np.uint8)).save(folder / split / f"{name}.png")
    Image.fromarray(mask).save(folder / f"{split}_annot" / f"{name}.png")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_squares(tmp_path_factory.mktemp("squares") / "set")


@pytest.fixture(scope="session")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of stripes in noise of the same grey levels: single pixels have no class."""
    folder = tmp_path_factory.mktemp("textures")
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(4):
        mask = np.zeros((64, 96), np.uint8)
        left = rng.integers(0, 48)
        mask[:, left : left + 48] = 1
        stripes = np.broadcast_to(np.arange(96) // 4 % 2, mask.shape)
        levels = np.where(mask, stripes, rng.integers(0, 2, mask.shape))
        pairs.append((np.uint8(80 + 90 * levels), mask))
    save_labelled(folder, pairs)
    return folder


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Paper A's seven sets as published."""
    given = published_sets()
    if given.is_dir():
        return given
    folder = tmp_path_factory.mktemp("published")
    with tarfile.open(given) as archive:
        archive.extractall(folder, filter="data")
    return folder / "benchmark"
