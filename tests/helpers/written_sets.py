"""Shard sets written in one line, and what is in them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shards.shard_format.schema import REJECTS_NAME, SAMPLES_NAME, Manifest, read_rows
from shards.write import WriteConfig, write_shards


def write_set(source: Path | str, out: Path | str, **settings: Any) -> Manifest:
    quiet = {"workers": 1, "report": False}
    return write_shards(WriteConfig(source=str(source), out=str(out), **(quiet | settings)))


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    """Path of each image -> its row of samples.csv."""
    return {row["path"]: row for row in read_rows(folder / SAMPLES_NAME)}


def rejects_of(folder: Path) -> dict[str, tuple[str, str]]:
    """Path of each rejected file -> reason, detail."""
    rejects = map(json.loads, (folder / REJECTS_NAME).read_text().splitlines())
    return {reject["path"]: (reject["reason"], reject["detail"]) for reject in rejects}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def samples_of(folder: Path, split: str) -> dict[str, dict[str, bytes]]:
    """Key -> suffix -> bytes, over all tars of a split, in order."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, suffix = member.name.split(".", 1)
                stream = tar.extractfile(member)
                assert stream is not None
                samples.setdefault(key, {})[suffix] = stream.read()
    return samples


def sources_of(folder: Path, split: str) -> list[str]:
    return [json.loads(parts["json"])["path"] for parts in samples_of(folder, split).values()]


def stored_images(folder: Path, split: str, suffix: str) -> list[np.ndarray[Any, Any]]:
    return [
        np.asarray(Image.open(io.BytesIO(parts[suffix])))
        for parts in samples_of(folder, split).values()
    ]


def save_noise(path: Path, *shape: int, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
