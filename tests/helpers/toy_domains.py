"""A toy study in two domains: textured blobs, and targets that are faded or inverted."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from networks import SMALL_ARCH
from PIL import Image
from scipy import ndimage

from downstream.adaptation.config import AdaptConfig

Image8 = npt.NDArray[np.uint8]

STUDY = """
classes: [ground=0, phase=255]
data: {root}
folds: 2
scale: 1.0
tile_core: 48
context_margin: 8
source: {{data: source, train: [.], test: []}}
targets:
  faded: {{data: faded, labelled: true}}
  inverted: {{data: inverted}}
  turned: {{data: inverted, invert: true}}
"""


def draw_toy(seed: int, size: tuple[int, int] = (96, 112)) -> tuple[Image8, Image8]:
    """A textured bright phase on a smooth dark ground; the image and its 0/255 mask."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=size), 7, mode="wrap")
    mask = field > np.quantile(field, 0.6)
    stripes = 25 * np.sin(np.arange(size[1]) * 1.3)[None, :] * mask
    grey = np.where(mask, 170, 80) + stripes + rng.normal(0, 8, size)
    return grey.clip(0, 255).astype(np.uint8), np.where(mask, 255, 0).astype(np.uint8)


def faded(image: Image8) -> Image8:
    """Less contrast, brighter: another detector."""
    return (160 + 0.2 * (image.astype(float) - 80)).clip(0, 255).astype(np.uint8)


def inverted(image: Image8) -> Image8:
    """Another polarity: another kind of microscope."""
    return 255 - image


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's YAML file; masks are 0/255, of a size that no tile divides."""
    root = tmp_path_factory.mktemp("toy")
    for name, shift in (("faded", faded), ("inverted", inverted)):
        for split, first, count in (("train", 100, 4), ("test", 200, 2)):
            for number in range(count):
                image, mask = draw_toy(first + number)
                save(root / name / split / f"{name}{number}.png", shift(image))
                save(root / name / f"{split}_annot" / f"{name}{number}.png", mask)
    for number in range(4):
        image, mask = draw_toy(number)
        save(root / "source" / f"grain{number}.png", image)
        save(root / "source" / f"grain{number}_mask.png", mask)
    path = root / "toy.yaml"
    path.write_text(STUDY.format(root=root))
    return path


def save(path: Path, pixels: Image8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def config(toy: Path, tmp_path: Path) -> AdaptConfig:
    """A few steps of a small network."""
    return AdaptConfig(
        study=toy,
        target="faded",
        run_dir=tmp_path / "run",
        arch=SMALL_ARCH,
        batch_size=2,
        steps=4,
        warmup_steps=0,
        lr=1e-3,
        augmentation="basic",
        log_steps=2,
        threads=1,
    )
