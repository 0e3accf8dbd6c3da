"""The format policy, line by line: what each kind of file becomes, and how it is stored."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pictures import HEIGHT, WIDTH, encoded, ends, halves, noise, reason_of
from PIL import Image

from shards.images.decode import RejectedImage, decode_image, encode_image, shrink

# 8-bit images pass untouched


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("channels", [None, 3])
def test_8_bit_image_is_unchanged(kind: str, channels: int | None) -> None:
    micrograph = decode_image(encoded(noise(channels=channels), kind))
    assert np.array_equal(micrograph.pixels, noise(channels=channels))
    assert micrograph.channels == (channels or 1)
    assert micrograph.notes == {}


# High bit depths are windowed


@pytest.mark.parametrize(
    ("dtype", "kind", "low", "high", "named"),
    [
        (np.uint16, "PNG", 1000, 3000, "uint16"),
        (np.uint16, "TIFF", 1000, 3000, "uint16"),
        (">u2", "TIFF", 1000, 3000, ">u2"),
        (np.int32, "TIFF", 1000, 3000, "int32"),
        (np.float32, "TIFF", -0.5, 0.25, "float32"),
    ],
)
def test_high_depth_is_windowed_and_recorded(
    dtype: str, kind: str, low: float, high: float, named: str
) -> None:
    values = halves(low, high, dtype)
    values[0, 1:3] = low + (high - low) / 4  # 63.75 of 255
    micrograph = decode_image(encoded(values, kind))
    assert ends(micrograph.pixels) == (0, 255)
    assert micrograph.pixels[0, 1] == 64
    assert micrograph.pixels.dtype == np.uint8
    assert tuple(micrograph.notes.values()) == (f"windowed {low}..{high} of {named}",)


def test_window_ignores_a_hot_and_a_dead_pixel() -> None:
    values = halves(1000, 3000, np.uint16)
    values[5, 5], values[6, 6] = 65535, 0  # 1 of 3072 pixels each, less than 0.1 percent
    micrograph = decode_image(encoded(values))
    assert tuple(micrograph.notes.values()) == ("windowed 1000..3000 of uint16",)
    assert micrograph.pixels[5, 5] == 255
    assert micrograph.pixels[6, 6] == 0


def test_flat_image_with_one_bright_spot_keeps_the_spot() -> None:
    values = np.full((HEIGHT, WIDTH), 7, np.uint16)
    values[5, 5] = 900  # both percentiles are 7: the extremes take their place
    pixels = decode_image(encoded(values)).pixels
    assert (pixels[0, 0], pixels[5, 5]) == (0, 255)


# Palette, 1-bit, alpha, CMYK


def _palette(*colours: int) -> Image.Image:
    image = Image.fromarray(halves(0, 1)).convert("P")
    image.putpalette(colours)
    return image


GREY_NOTE = "equal channels to grey"
MODES: dict[str, tuple[Any, tuple[Any, Any], tuple[str, ...]]] = {
    "coloured palette": (
        _palette(200, 10, 10, 10, 10, 200),
        ([200, 10, 10], [10, 10, 200]),
        ("from mode P",),
    ),
    "grey palette": (_palette(20, 20, 20, 90, 90, 90), (20, 90), ("from mode P", GREY_NOTE)),
    "one bit": (
        Image.fromarray(halves(0, 255)).convert("1"),
        (0, 255),
        ("from mode 1", GREY_NOTE),
    ),
    # Over black: 200, 100, 50 times 128 / 255 are 100.4, 50.2, 25.1.
    "alpha": (
        halves([200, 100, 50, 255], [200, 100, 50, 128]),
        ([200, 100, 50], [100, 50, 25]),
        ("from mode RGBA",),
    ),
    "grey with alpha": (
        Image.fromarray(halves([100, 255], [100, 0]), "LA"),
        (100, 0),
        ("from mode LA", GREY_NOTE),
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_other_modes_become_grey_or_rgb(mode: str) -> None:
    image, expected, notes = MODES[mode]
    micrograph = decode_image(encoded(image))
    assert ends(micrograph.pixels) == expected
    assert tuple(micrograph.notes.values()) == notes


def test_cmyk_jpeg_becomes_rgb() -> None:
    inks = Image.fromarray(halves([255, 0, 0, 0], [0, 255, 0, 0]), "CMYK")
    micrograph = decode_image(encoded(inks, "JPEG", quality=100))
    left, right = ends(micrograph.pixels)
    assert np.abs(np.subtract(left, [0, 255, 255])).max() <= 4  # cyan
    assert np.abs(np.subtract(right, [255, 0, 255])).max() <= 4  # magenta
    assert tuple(micrograph.notes.values()) == ("from mode CMYK",)


def test_opaque_alpha_is_dropped() -> None:
    colour = noise(channels=3)
    opaque = np.dstack([colour, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    micrograph = decode_image(encoded(opaque))
    assert np.array_equal(micrograph.pixels, colour)


@pytest.mark.parametrize(
    ("left", "right", "key", "black"),
    [(90, 200, 200, 0), ([90, 10, 10], [10, 200, 10], (10, 200, 10), [0, 0, 0])],
    ids=["grey", "rgb"],
)
def test_transparent_colour_becomes_black(left: Any, right: Any, key: Any, black: Any) -> None:
    micrograph = decode_image(encoded(halves(left, right), transparency=key))
    assert ends(micrograph.pixels) == (left, black)
    assert "with a transparent colour" in next(iter(micrograph.notes.values()))


# EXIF rotation


def _rotated_file(values: npt.NDArray[Any], orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(values, kind, exif=exif)


@pytest.mark.parametrize(
    ("orientation", "quarter_turns"), [(3, 2), (6, -1), (8, 1), (0, 0), (1, 0), (9, 0)]
)
def test_exif_rotation_is_applied(orientation: int, quarter_turns: int) -> None:
    micrograph = decode_image(_rotated_file(noise(), orientation))
    assert np.array_equal(micrograph.pixels, np.rot90(noise(), quarter_turns))
    assert tuple(micrograph.notes.values()) == ("EXIF rotation applied",) * bool(quarter_turns)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_rotation_is_applied_to_high_depth(kind: str) -> None:
    values = noise().astype(np.uint16) * 100
    turned = decode_image(_rotated_file(values, 6, kind)).pixels
    assert np.array_equal(turned, np.rot90(decode_image(encoded(values)).pixels, -1))


# Pages


def test_first_page_of_a_tiff_is_taken() -> None:
    second = Image.fromarray(noise(2))
    micrograph = decode_image(encoded(noise(1), "TIFF", save_all=True, append_images=[second]))
    assert np.array_equal(micrograph.pixels, noise(1))
    assert tuple(micrograph.notes.values()) == ("page 1 of 2",)


# Colour or grey


def test_equal_channels_become_grey() -> None:
    micrograph = decode_image(encoded(np.dstack([noise()] * 3)))
    assert np.array_equal(micrograph.pixels, noise())
    assert tuple(micrograph.notes.values()) == ("equal channels to grey",)


@pytest.mark.parametrize(("difference", "channels"), [(4, 1), (5, 3)])
@pytest.mark.parametrize("channel", [0, 2])
def test_channels_may_differ_by_rounding(difference: int, channels: int, channel: int) -> None:
    values = np.dstack([halves(100, 150)] * 3)
    values[8, :, channel] += difference
    assert decode_image(encoded(values)).channels == channels


@pytest.mark.parametrize(("rows", "channels"), [(4, 1), (5, 3)])
def test_a_thousandth_of_the_pixels_may_be_coloured(rows: int, channels: int) -> None:
    values = np.dstack([np.tile(halves(100, 150), (12, 16))] * 3)  # 576 x 1024; an eighth counts
    values[: 8 * rows, :18, 0] = 255  # 72 and 90 of 73,728
    assert decode_image(encoded(values)).channels == channels


def test_grey_option_takes_the_colour_out() -> None:
    values = halves([200, 100, 50], [0, 0, 0])
    micrograph = decode_image(encoded(values), grey=True)
    assert ends(micrograph.pixels) == (124, 0)  # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    assert tuple(micrograph.notes.values()) == ("colour to grey",)


# What is refused; tests/shards/test_hostile.py has hundreds of other files


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


def test_text_is_called_text() -> None:
    for text in ("sample,grain size\nA,12\n", "Gefüge"):
        with pytest.raises(RejectedImage, match="text"):
            decode_image(text.encode())


def test_one_other_pixel_makes_an_image() -> None:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[3, 3] = 1
    assert np.array_equal(decode_image(encoded(values)).pixels, values)


def test_most_pixels_are_a_limit() -> None:
    assert reason_of(encoded(noise()), max_pixels=HEIGHT * WIDTH - 1) == "too_large"
    assert decode_image(encoded(noise()), max_pixels=HEIGHT * WIDTH).channels == 1


# Scaled and stored


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


@pytest.mark.parametrize(("channels", "mode"), [(None, "L"), (3, "RGB")])
def test_fast_profile_is_a_jpeg(channels: int | None, mode: str) -> None:
    stored = Image.open(io.BytesIO(encode_image(noise(channels=channels), "fast")))
    assert (stored.format, stored.mode) == ("JPEG", mode)


def test_fast_profile_keeps_colour_at_full_resolution() -> None:
    # The border lies at an odd column: subsampled colour would bleed over it.
    values = np.roll(halves([200, 10, 10], [10, 10, 200]), 1, axis=1)
    decoded = np.asarray(Image.open(io.BytesIO(encode_image(values, "fast"))))
    assert np.abs(decoded.astype(int) - values).max() < 20
