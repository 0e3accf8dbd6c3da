"""Small pictures, their files, and what becomes of these."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from shards.images.decode import Pixels, RejectedImage, decode_image

HEIGHT, WIDTH = 48, 64


def noise(seed: int = 0, *, channels: int | None = None) -> Pixels:
    shape = (HEIGHT, WIDTH) if channels is None else (HEIGHT, WIDTH, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_noise(folder: Path, classes: Sequence[str], per_class: int, side: int) -> None:
    """A corpus that does not compress, no two images alike: FOLDER/CLASS/NUMBER.png."""
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 256, (side, side), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def save_labelled(folder: Path, pairs: Iterable[tuple[Pixels, Pixels]]) -> None:
    """Images and their masks in a folder without splits: FOLDER/images and FOLDER/masks."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, (pixels, mask) in enumerate(pairs):
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")


def halves(left: Any, right: Any, dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
    """An image of two values (or colours), one on each side."""
    columns = np.array([left] * (WIDTH // 2) + [right] * (WIDTH // 2), dtype)
    return np.broadcast_to(columns, (HEIGHT, *columns.shape)).copy()


def encoded(image: Image.Image | npt.NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(stream, kind, **options)
    return stream.getvalue()


def ends(pixels: Pixels) -> tuple[Any, Any]:
    """The values far left and far right, which `halves` set."""
    return pixels[0, 0].tolist(), pixels[0, -1].tolist()


def reason_of(data: bytes, **options: Any) -> str:
    with pytest.raises(RejectedImage) as caught:
        decode_image(data, **options)
    return caught.value.reason
