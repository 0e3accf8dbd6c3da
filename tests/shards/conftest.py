"""Tiny corpora of real image files, and the shard sets made of them."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from written_sets import write_set

from shards.shard_format.schema import (
    MANIFEST_NAME,
    corpus_hash,
    file_sha256,
    idx_file,
    index_file,
    parse_manifest,
)

HEIGHT, WIDTH = 48, 64
CLASSES = {"alpha": 12, "beta": 9, "gamma": 8}


def _make_corpus(root: Path, classes: Mapping[str, int], *, colour: bool = False) -> Path:
    for label, (name, count) in enumerate(classes.items()):
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(count):
            shape = (HEIGHT, WIDTH, 3) if colour and label == number == 0 else (HEIGHT, WIDTH)
            _draw((label, number), shape).save(folder / f"img{number}.png")
    return root


def _draw(seed: tuple[int, int], shape: tuple[int, ...]) -> Image.Image:
    """Noise of a brightness and contrast of its own, so that no two images have equal sums."""
    generator = np.random.default_rng(seed)
    low, high = sorted(generator.integers(0, 256, 2).tolist())
    pixels: npt.NDArray[np.uint8] = generator.integers(low, high + 10, shape).clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _resign(folder: Path) -> None:
    """Make every checksum of a shard set fit its files again, so that only content can be wrong."""
    path = folder / MANIFEST_NAME
    content = json.loads(path.read_text())
    for name, split in content["splits"].items():
        split["index_sha256"] = file_sha256(folder / index_file(name))
        for shard in split["shards"]:
            shard["bytes"] = (folder / shard["name"]).stat().st_size
            shard["sha256"] = file_sha256(folder / shard["name"])
            shard["idx_sha256"] = file_sha256(folder / idx_file(shard["name"]))
    manifest = parse_manifest(content)
    content = asdict(manifest) | {"corpus_hash": corpus_hash(manifest.classes, manifest.splits)}
    path.write_text(json.dumps(content))


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., Path]:
    """`make_corpus(root, {"alpha": 3, ...}, colour=False)`; `colour`: the first image is RGB."""
    return _make_corpus


@pytest.fixture(scope="session")
def resign() -> Callable[[Path], None]:
    return _resign


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """29 grey images in the classes alpha (12), beta (9) and gamma (8). Read only."""
    return _make_corpus(tmp_path_factory.mktemp("corpus"), CLASSES)


@pytest.fixture(scope="session")
def colour_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `corpus`, but one image of alpha is truly coloured. Read only."""
    return _make_corpus(tmp_path_factory.mktemp("colour_corpus"), CLASSES, colour=True)


@pytest.fixture(scope="session")
def fast_set(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`corpus` as JPEG: 25 training samples in 5 tars, 4 validation samples in one. Read only."""
    out = tmp_path_factory.mktemp("sets") / "fast"
    write_set(corpus, out, shard_samples=5)
    return out


@pytest.fixture(scope="session")
def exact_set(colour_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`colour_corpus` as lossless PNG, cut like `fast_set`. Read only."""
    out = tmp_path_factory.mktemp("sets") / "exact"
    write_set(colour_corpus, out, profile="exact", shard_samples=5)
    return out


@pytest.fixture
def folder(fast_set: Path, tmp_path: Path) -> Path:
    """A copy of `fast_set` to damage."""
    return shutil.copytree(fast_set, tmp_path / "set")
