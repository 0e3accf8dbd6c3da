"""How images are scaled and stored."""

import io

import numpy as np
import pytest
from pictures import halves, noise
from PIL import Image

from shards.images import encode_image, shrink


@pytest.mark.parametrize(
    ("shape", "max_side", "expected"),
    [
        ((48, 64), 32, (24, 32)),
        ((64, 48), 32, (32, 24)),
        ((60, 90, 3), 45, (30, 45, 3)),
        ((2, 400), 40, (1, 40)),
    ],
)
def test_longest_side_is_capped(
    shape: tuple[int, ...], max_side: int, expected: tuple[int, ...]
) -> None:
    assert shrink(np.zeros(shape, np.uint8), max_side).shape == expected


@pytest.mark.parametrize("max_side", [None, 64, 65])
def test_image_within_the_cap_is_left_alone(max_side: int | None) -> None:
    assert np.array_equal(shrink(noise(), max_side), noise())


def test_scaling_is_antialiased() -> None:
    stripes = np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 200  # as fine as can be
    small = shrink(stripes, 32)
    assert np.abs(small[4:-4, 4:-4].astype(int) - 100).max() <= 8


@pytest.mark.parametrize("channels", [None, 3])
def test_exact_profile_is_lossless(channels: int | None) -> None:
    data = encode_image(noise(channels=channels), "exact")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), noise(channels=channels))


def test_fast_profile_is_a_jpeg() -> None:
    data = encode_image(noise(channels=3), "fast")
    assert Image.open(io.BytesIO(data)).format == "JPEG"


def test_fast_profile_keeps_colour_at_full_resolution() -> None:
    # The border lies at an odd column: subsampled colour would bleed over it.
    values = np.roll(halves([200, 10, 10], [10, 10, 200]), 1, axis=1)
    decoded = np.asarray(Image.open(io.BytesIO(encode_image(values, "fast"))))
    assert np.abs(decoded.astype(int) - values).max() < 20


def test_grey_jpeg_has_one_channel() -> None:
    data = encode_image(noise(), "fast")
    assert Image.open(io.BytesIO(data)).mode == "L"
