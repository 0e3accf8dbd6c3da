"""The format policy, line by line: what each kind of file becomes."""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pictures import HEIGHT, WIDTH, encoded, ends, halves, noise, reason_of
from PIL import Image

from shards.images import decode_image

# 8-bit images pass untouched


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_grey_stays_as_it_is(kind: str) -> None:
    micrograph = decode_image(encoded(noise(), kind))
    assert np.array_equal(micrograph.pixels, noise())
    assert micrograph.channels == 1


def test_coloured_image_stays_rgb() -> None:
    micrograph = decode_image(encoded(noise(channels=3)))
    assert np.array_equal(micrograph.pixels, noise(channels=3))
    assert micrograph.channels == 3


@pytest.mark.parametrize("channels", [None, 3])
def test_nothing_is_noted_when_nothing_was_changed(channels: int | None) -> None:
    assert decode_image(encoded(noise(channels=channels))).notes == {}


def test_grey_jpeg_is_decoded() -> None:
    pixels = decode_image(encoded(halves(40, 200), "JPEG", quality=95)).pixels
    left, right = ends(pixels)
    assert abs(left - 40) <= 2
    assert abs(right - 200) <= 2


# High bit depths are windowed


@pytest.mark.parametrize(
    ("dtype", "kind", "named"),
    [
        (np.uint16, "PNG", "uint16"),
        (np.uint16, "TIFF", "uint16"),
        (">u2", "TIFF", ">u2"),
        (np.int32, "TIFF", "int32"),
        (np.float32, "TIFF", "float32"),
    ],
)
def test_high_depth_is_windowed_and_recorded(dtype: str, kind: str, named: str) -> None:
    values = halves(1000, 3000, dtype)
    values[0, 1:3] = 1500  # a quarter of the way up: 63.75
    micrograph = decode_image(encoded(values, kind))
    assert ends(micrograph.pixels) == (0, 255)
    assert micrograph.pixels[0, 1] == 64
    assert micrograph.pixels.dtype == np.uint8
    assert tuple(micrograph.notes.values()) == (f"windowed 1000..3000 of {named}",)


def test_window_ignores_a_hot_and_a_dead_pixel() -> None:
    values = halves(1000, 3000, np.uint16)
    values[5, 5], values[6, 6] = 65535, 0  # 1 of 3072 pixels each, less than 0.1 percent
    micrograph = decode_image(encoded(values))
    assert tuple(micrograph.notes.values()) == ("windowed 1000..3000 of uint16",)
    assert micrograph.pixels[5, 5] == 255
    assert micrograph.pixels[6, 6] == 0


def test_float_below_one_and_below_zero_is_windowed() -> None:
    micrograph = decode_image(encoded(halves(-0.5, 0.25, np.float32), "TIFF"))
    assert ends(micrograph.pixels) == (0, 255)
    assert tuple(micrograph.notes.values()) == ("windowed -0.5..0.25 of float32",)


def test_flat_image_with_one_bright_spot_keeps_the_spot() -> None:
    values = np.full((HEIGHT, WIDTH), 7, np.uint16)
    values[5, 5] = 900  # both percentiles are 7: the extremes take their place
    pixels = decode_image(encoded(values)).pixels
    assert (pixels[0, 0], pixels[5, 5]) == (0, 255)


# Palette, 1-bit, CMYK


def test_coloured_palette_becomes_rgb() -> None:
    image = Image.fromarray(halves(0, 1)).convert("P")
    image.putpalette([200, 10, 10, 10, 10, 200])
    micrograph = decode_image(encoded(image))
    assert ends(micrograph.pixels) == ([200, 10, 10], [10, 10, 200])
    assert tuple(micrograph.notes.values()) == ("from mode P",)


def test_grey_palette_becomes_grey() -> None:
    image = Image.fromarray(halves(0, 1)).convert("P")
    image.putpalette([20, 20, 20, 90, 90, 90])
    micrograph = decode_image(encoded(image))
    assert ends(micrograph.pixels) == (20, 90)
    assert tuple(micrograph.notes.values()) == ("from mode P", "equal channels to grey")


def test_one_bit_becomes_black_and_white() -> None:
    micrograph = decode_image(encoded(Image.fromarray(halves(0, 255)).convert("1")))
    assert ends(micrograph.pixels) == (0, 255)
    assert micrograph.channels == 1
    assert next(iter(micrograph.notes.values())) == "from mode 1"


def test_cmyk_jpeg_becomes_rgb() -> None:
    inks = Image.fromarray(halves([255, 0, 0, 0], [0, 255, 0, 0]), "CMYK")
    micrograph = decode_image(encoded(inks, "JPEG", quality=100))
    left, right = ends(micrograph.pixels)
    assert np.abs(np.subtract(left, [0, 255, 255])).max() <= 4  # cyan
    assert np.abs(np.subtract(right, [255, 0, 255])).max() <= 4  # magenta
    assert tuple(micrograph.notes.values()) == ("from mode CMYK",)


# Alpha


def test_alpha_is_blended_over_black() -> None:
    values = halves([200, 100, 50, 255], [200, 100, 50, 128])
    micrograph = decode_image(encoded(values))
    # 200, 100, 50 times 128 / 255: 100.4, 50.2, 25.1
    assert ends(micrograph.pixels) == ([200, 100, 50], [100, 50, 25])
    assert tuple(micrograph.notes.values()) == ("from mode RGBA",)


def test_opaque_alpha_is_dropped() -> None:
    colour = noise(channels=3)
    opaque = np.dstack([colour, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    micrograph = decode_image(encoded(opaque))
    assert np.array_equal(micrograph.pixels, colour)


def test_grey_with_alpha_becomes_grey() -> None:
    values = Image.fromarray(halves([100, 255], [100, 0]), "LA")
    micrograph = decode_image(encoded(values))
    assert ends(micrograph.pixels) == (100, 0)
    assert micrograph.channels == 1


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


@pytest.mark.parametrize(("orientation", "quarter_turns"), [(3, 2), (6, -1), (8, 1)])
def test_exif_rotation_is_applied(orientation: int, quarter_turns: int) -> None:
    micrograph = decode_image(_rotated_file(noise(), orientation))
    assert np.array_equal(micrograph.pixels, np.rot90(noise(), quarter_turns))
    assert tuple(micrograph.notes.values()) == ("EXIF rotation applied",)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_rotation_is_applied_to_high_depth(kind: str) -> None:
    values = noise().astype(np.uint16) * 100
    turned = decode_image(_rotated_file(values, 6, kind)).pixels
    assert np.array_equal(turned, np.rot90(decode_image(encoded(values)).pixels, -1))


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_orientation_that_says_nothing_changes_nothing(orientation: int) -> None:
    micrograph = decode_image(_rotated_file(noise(), orientation))
    assert np.array_equal(micrograph.pixels, noise())
    assert micrograph.notes == {}


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


def test_16_bit_colour_is_refused() -> None:
    # By hand, since Pillow writes none: a 33 x 33 RGB image of 16 bits as raw PPM-like TIFF.
    values = np.random.default_rng(0).integers(0, 4096, (33, 33, 3)).astype("<u2")
    tags = [(256, 4, 1, 33), (257, 4, 1, 33), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 128), (277, 3, 1, 3), (278, 4, 1, 33), (279, 4, 1, values.nbytes)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0" * 4
    data = head + struct.pack("<HHH", 16, 16, 16)
    data = data.ljust(128, b"\0") + values.tobytes()
    assert reason_of(data) == "deep_colour"


def test_grey_option_takes_the_colour_out() -> None:
    values = halves([200, 100, 50], [0, 0, 0])
    micrograph = decode_image(encoded(values), grey=True)
    assert ends(micrograph.pixels) == (124, 0)  # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    assert tuple(micrograph.notes.values()) == ("colour to grey",)
