"""The format policy: which files are refused, and why."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pictures import HEIGHT, WIDTH, encoded, halves, noise, reason_of

from shards.images import MIN_SIDE, RejectedImage, decode_image


def test_empty_file_is_rejected() -> None:
    assert reason_of(b"") == "empty"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_truncated_image_is_rejected(kind: str) -> None:
    data = encoded(noise(), kind)
    assert reason_of(data[: len(data) // 2]) in ("corrupt", "not_an_image")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_image_without_its_last_rows_is_corrupt(kind: str) -> None:
    data = encoded(noise(), kind)
    assert reason_of(data[: len(data) * 9 // 10]) == "corrupt"


def test_jpeg_may_lack_its_end_marker_but_no_rows() -> None:
    data = encoded(noise(), "JPEG", quality=95)
    assert data.endswith(b"\xff\xd9")
    whole = decode_image(data).pixels
    assert np.array_equal(decode_image(data[:-2]).pixels, whole)
    assert reason_of(data[: len(data) // 2]) == "corrupt"
    assert reason_of(data[: len(data) // 2] + b"\xff\xd9") == "corrupt"


def test_png_with_a_flipped_byte_is_corrupt() -> None:
    data = bytearray(encoded(noise()))
    data[len(data) // 2] ^= 1
    assert reason_of(bytes(data)) == "corrupt"


@pytest.mark.parametrize(
    "data",
    [
        b"sample,grain size\nA,12\n",
        "Gefüge".encode(),
        np.random.default_rng(0).bytes(2000),
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["text", "unicode", "garbage", "signature alone"],
)
def test_what_is_no_image_is_rejected(data: bytes) -> None:
    assert reason_of(data) == "not_an_image"


def test_text_is_called_text() -> None:
    with pytest.raises(RejectedImage, match="text"):
        decode_image(b"sample,grain size\nA,12\n")


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((HEIGHT, WIDTH), np.uint8),
        np.full((HEIGHT, WIDTH, 3), 255, np.uint8),
        np.full((HEIGHT, WIDTH), 40000, np.uint16),
    ],
    ids=["black", "white", "16-bit"],
)
def test_blank_image_is_rejected(values: npt.NDArray[Any]) -> None:
    assert reason_of(encoded(values)) == "blank"


def test_one_other_pixel_makes_an_image() -> None:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[3, 3] = 1
    assert np.array_equal(decode_image(encoded(values)).pixels, values)


@pytest.mark.parametrize("shape", [(MIN_SIDE - 1, 64), (64, MIN_SIDE - 1)])
def test_too_small_image_is_rejected(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert reason_of(encoded(values)) == "too_small"


def test_smallest_image_is_accepted() -> None:
    values = np.random.default_rng(0).integers(0, 256, (MIN_SIDE, MIN_SIDE), dtype=np.uint8)
    assert decode_image(encoded(values)).pixels.shape == (MIN_SIDE, MIN_SIDE)


def test_image_of_too_many_pixels_is_rejected() -> None:
    assert reason_of(encoded(noise()), max_pixels=HEIGHT * WIDTH - 1) == "too_large"


def test_image_of_just_enough_pixels_is_accepted() -> None:
    assert decode_image(encoded(noise()), max_pixels=HEIGHT * WIDTH).channels == 1


def test_bomb_is_rejected_before_it_is_decoded() -> None:
    header = bytearray(encoded(noise(), "BMP")[:54])  # no pixels at all behind the header
    header[18:26] = (1_000_000).to_bytes(4, "little") * 2
    assert reason_of(bytes(header)) == "too_large"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_value_that_is_not_finite_is_corrupt(value: float) -> None:
    values = halves(0.25, 0.75, np.float32)
    values[3, 3] = value
    assert reason_of(encoded(values, "TIFF")) == "corrupt"
