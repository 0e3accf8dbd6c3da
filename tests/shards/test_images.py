"""The format policy, line by line: what each kind of file becomes, and which files are refused."""

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from shards.images import MIN_SIDE, Pixels, RejectedImage, decode_image, encode_image, shrink

HEIGHT, WIDTH = 48, 64


def _noise(seed: int = 0, *, channels: int | None = None) -> Pixels:
    shape = (HEIGHT, WIDTH) if channels is None else (HEIGHT, WIDTH, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _halves(left: Any, right: Any, dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
    """An image of two values (or colours), one on each side."""
    columns = np.array([left] * (WIDTH // 2) + [right] * (WIDTH // 2), dtype)
    return np.broadcast_to(columns, (HEIGHT, *columns.shape)).copy()


def _file(image: Image.Image | npt.NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(stream, kind, **options)
    return stream.getvalue()


def _ends(pixels: Pixels) -> tuple[Any, Any]:
    """The values far left and far right, which `_halves` set."""
    return pixels[0, 0].tolist(), pixels[0, -1].tolist()


def _reason(data: bytes, **options: Any) -> str:
    with pytest.raises(RejectedImage) as caught:
        decode_image(data, **options)
    return caught.value.reason


# 8-bit images pass untouched


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_grey_stays_as_it_is(kind: str) -> None:
    micrograph = decode_image(_file(_noise(), kind))
    assert np.array_equal(micrograph.pixels, _noise())
    assert micrograph.channels == 1


def test_coloured_image_stays_rgb() -> None:
    micrograph = decode_image(_file(_noise(channels=3)))
    assert np.array_equal(micrograph.pixels, _noise(channels=3))
    assert micrograph.channels == 3


@pytest.mark.parametrize("channels", [None, 3])
def test_nothing_is_noted_when_nothing_was_changed(channels: int | None) -> None:
    assert decode_image(_file(_noise(channels=channels))).notes == ()


def test_grey_jpeg_is_decoded() -> None:
    pixels = decode_image(_file(_halves(40, 200), "JPEG", quality=95)).pixels
    left, right = _ends(pixels)
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
    values = _halves(1000, 3000, dtype)
    values[0, 1:3] = 1500  # a quarter of the way up: 63.75
    micrograph = decode_image(_file(values, kind))
    assert _ends(micrograph.pixels) == (0, 255)
    assert micrograph.pixels[0, 1] == 64
    assert micrograph.pixels.dtype == np.uint8
    assert micrograph.notes == (f"windowed 1000..3000 of {named}",)


def test_window_ignores_a_hot_and_a_dead_pixel() -> None:
    values = _halves(1000, 3000, np.uint16)
    values[5, 5], values[6, 6] = 65535, 0  # 1 of 3072 pixels each, less than 0.1 percent
    micrograph = decode_image(_file(values))
    assert micrograph.notes == ("windowed 1000..3000 of uint16",)
    assert micrograph.pixels[5, 5] == 255
    assert micrograph.pixels[6, 6] == 0


def test_float_below_one_and_below_zero_is_windowed() -> None:
    micrograph = decode_image(_file(_halves(-0.5, 0.25, np.float32), "TIFF"))
    assert _ends(micrograph.pixels) == (0, 255)
    assert micrograph.notes == ("windowed -0.5..0.25 of float32",)


def test_flat_image_with_one_bright_spot_keeps_the_spot() -> None:
    values = np.full((HEIGHT, WIDTH), 7, np.uint16)
    values[5, 5] = 900  # both percentiles are 7: the extremes take their place
    pixels = decode_image(_file(values)).pixels
    assert (pixels[0, 0], pixels[5, 5]) == (0, 255)


# Palette, 1-bit, CMYK


def test_coloured_palette_becomes_rgb() -> None:
    image = Image.fromarray(_halves(0, 1)).convert("P")
    image.putpalette([200, 10, 10, 10, 10, 200])
    micrograph = decode_image(_file(image))
    assert _ends(micrograph.pixels) == ([200, 10, 10], [10, 10, 200])
    assert micrograph.notes == ("from mode P",)


def test_grey_palette_becomes_grey() -> None:
    image = Image.fromarray(_halves(0, 1)).convert("P")
    image.putpalette([20, 20, 20, 90, 90, 90])
    micrograph = decode_image(_file(image))
    assert _ends(micrograph.pixels) == (20, 90)
    assert micrograph.notes == ("from mode P", "equal channels to grey")


def test_one_bit_becomes_black_and_white() -> None:
    micrograph = decode_image(_file(Image.fromarray(_halves(0, 255)).convert("1")))
    assert _ends(micrograph.pixels) == (0, 255)
    assert micrograph.channels == 1
    assert micrograph.notes[0] == "from mode 1"


def test_cmyk_jpeg_becomes_rgb() -> None:
    inks = Image.fromarray(_halves([255, 0, 0, 0], [0, 255, 0, 0]), "CMYK")
    micrograph = decode_image(_file(inks, "JPEG", quality=100))
    left, right = _ends(micrograph.pixels)
    assert np.abs(np.subtract(left, [0, 255, 255])).max() <= 4  # cyan
    assert np.abs(np.subtract(right, [255, 0, 255])).max() <= 4  # magenta
    assert micrograph.notes == ("from mode CMYK",)


# Alpha


def test_alpha_is_blended_over_black() -> None:
    values = _halves([200, 100, 50, 255], [200, 100, 50, 128])
    micrograph = decode_image(_file(values))
    # 200, 100, 50 times 128 / 255: 100.4, 50.2, 25.1
    assert _ends(micrograph.pixels) == ([200, 100, 50], [100, 50, 25])
    assert micrograph.notes == ("from mode RGBA",)


def test_opaque_alpha_is_dropped() -> None:
    colour = _noise(channels=3)
    opaque = np.dstack([colour, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    micrograph = decode_image(_file(opaque))
    assert np.array_equal(micrograph.pixels, colour)


def test_grey_with_alpha_becomes_grey() -> None:
    values = Image.fromarray(_halves([100, 255], [100, 0]), "LA")
    micrograph = decode_image(_file(values))
    assert _ends(micrograph.pixels) == (100, 0)
    assert micrograph.channels == 1


@pytest.mark.parametrize(
    ("left", "right", "key", "black"),
    [(90, 200, 200, 0), ([90, 10, 10], [10, 200, 10], (10, 200, 10), [0, 0, 0])],
    ids=["grey", "rgb"],
)
def test_transparent_colour_becomes_black(left: Any, right: Any, key: Any, black: Any) -> None:
    micrograph = decode_image(_file(_halves(left, right), transparency=key))
    assert _ends(micrograph.pixels) == (left, black)
    assert "with a transparent colour" in micrograph.notes[0]


# EXIF rotation


def _rotated_file(values: npt.NDArray[Any], orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _file(values, kind, exif=exif)


@pytest.mark.parametrize(("orientation", "quarter_turns"), [(3, 2), (6, -1), (8, 1)])
def test_exif_rotation_is_applied(orientation: int, quarter_turns: int) -> None:
    micrograph = decode_image(_rotated_file(_noise(), orientation))
    assert np.array_equal(micrograph.pixels, np.rot90(_noise(), quarter_turns))
    assert micrograph.notes == ("EXIF rotation applied",)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_rotation_is_applied_to_high_depth(kind: str) -> None:
    values = _noise().astype(np.uint16) * 100
    turned = decode_image(_rotated_file(values, 6, kind)).pixels
    assert np.array_equal(turned, np.rot90(decode_image(_file(values)).pixels, -1))


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_orientation_that_says_nothing_changes_nothing(orientation: int) -> None:
    micrograph = decode_image(_rotated_file(_noise(), orientation))
    assert np.array_equal(micrograph.pixels, _noise())
    assert micrograph.notes == ()


# Pages


def test_first_page_of_a_tiff_is_taken() -> None:
    second = Image.fromarray(_noise(2))
    micrograph = decode_image(_file(_noise(1), "TIFF", save_all=True, append_images=[second]))
    assert np.array_equal(micrograph.pixels, _noise(1))
    assert micrograph.notes == ("page 1 of 2",)


# Colour or grey


def test_equal_channels_become_grey() -> None:
    micrograph = decode_image(_file(np.dstack([_noise()] * 3)))
    assert np.array_equal(micrograph.pixels, _noise())
    assert micrograph.notes == ("equal channels to grey",)


@pytest.mark.parametrize(("difference", "channels"), [(4, 1), (5, 3)])
@pytest.mark.parametrize("channel", [0, 2])
def test_channels_may_differ_by_rounding(difference: int, channels: int, channel: int) -> None:
    values = np.dstack([_halves(100, 150)] * 3)
    values[8, :, channel] += difference
    assert decode_image(_file(values)).channels == channels


@pytest.mark.parametrize(("rows", "channels"), [(4, 1), (5, 3)])
def test_a_thousandth_of_the_pixels_may_be_coloured(rows: int, channels: int) -> None:
    values = np.dstack([np.tile(_halves(100, 150), (12, 16))] * 3)  # 576 x 1024; an eighth counts
    values[: 8 * rows, :18, 0] = 255  # 72 and 90 of 73,728
    assert decode_image(_file(values)).channels == channels


def test_16_bit_colour_is_refused() -> None:
    # By hand, since Pillow writes none: a 33 x 33 RGB image of 16 bits as raw PPM-like TIFF.
    values = np.random.default_rng(0).integers(0, 4096, (33, 33, 3)).astype("<u2")
    tags = [(256, 4, 1, 33), (257, 4, 1, 33), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 128), (277, 3, 1, 3), (278, 4, 1, 33), (279, 4, 1, values.nbytes)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0" * 4
    data = head + struct.pack("<HHH", 16, 16, 16)
    data = data.ljust(128, b"\0") + values.tobytes()
    assert _reason(data) == "deep_colour"


def test_grey_option_takes_the_colour_out() -> None:
    values = _halves([200, 100, 50], [0, 0, 0])
    micrograph = decode_image(_file(values), grey=True)
    assert _ends(micrograph.pixels) == (124, 0)  # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    assert micrograph.notes == ("colour to grey",)


# Rejects


def test_empty_file_is_rejected() -> None:
    assert _reason(b"") == "empty"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_truncated_image_is_rejected(kind: str) -> None:
    data = _file(_noise(), kind)
    assert _reason(data[: len(data) // 2]) in ("corrupt", "not_an_image")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_image_without_its_last_rows_is_corrupt(kind: str) -> None:
    data = _file(_noise(), kind)
    assert _reason(data[: len(data) * 9 // 10]) == "corrupt"


def test_jpeg_may_lack_its_end_marker_but_no_rows() -> None:
    data = _file(_noise(), "JPEG", quality=95)
    assert data.endswith(b"\xff\xd9")
    whole = decode_image(data).pixels
    assert np.array_equal(decode_image(data[:-2]).pixels, whole)
    assert _reason(data[: len(data) // 2]) == "corrupt"
    assert _reason(data[: len(data) // 2] + b"\xff\xd9") == "corrupt"


def test_png_with_a_flipped_byte_is_corrupt() -> None:
    data = bytearray(_file(_noise()))
    data[len(data) // 2] ^= 1
    assert _reason(bytes(data)) == "corrupt"


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
    assert _reason(data) == "not_an_image"


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
    assert _reason(_file(values)) == "blank"


def test_one_other_pixel_makes_an_image() -> None:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[3, 3] = 1
    assert np.array_equal(decode_image(_file(values)).pixels, values)


@pytest.mark.parametrize("shape", [(MIN_SIDE - 1, 64), (64, MIN_SIDE - 1)])
def test_too_small_image_is_rejected(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert _reason(_file(values)) == "too_small"


def test_smallest_image_is_accepted() -> None:
    values = np.random.default_rng(0).integers(0, 256, (MIN_SIDE, MIN_SIDE), dtype=np.uint8)
    assert decode_image(_file(values)).pixels.shape == (MIN_SIDE, MIN_SIDE)


def test_image_of_too_many_pixels_is_rejected() -> None:
    assert _reason(_file(_noise()), max_pixels=HEIGHT * WIDTH - 1) == "too_large"


def test_image_of_just_enough_pixels_is_accepted() -> None:
    assert decode_image(_file(_noise()), max_pixels=HEIGHT * WIDTH).channels == 1


def test_bomb_is_rejected_before_it_is_decoded() -> None:
    header = bytearray(_file(_noise(), "BMP")[:54])  # no pixels at all behind the header
    header[18:26] = (1_000_000).to_bytes(4, "little") * 2
    assert _reason(bytes(header)) == "too_large"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_value_that_is_not_finite_is_corrupt(value: float) -> None:
    values = _halves(0.25, 0.75, np.float32)
    values[3, 3] = value
    assert _reason(_file(values, "TIFF")) == "corrupt"


# Scaling and encoding


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
    assert np.array_equal(shrink(_noise(), max_side), _noise())


def test_scaling_is_antialiased() -> None:
    stripes = np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 200  # as fine as can be
    small = shrink(stripes, 32)
    assert np.abs(small[4:-4, 4:-4].astype(int) - 100).max() <= 8


@pytest.mark.parametrize("channels", [None, 3])
def test_exact_profile_is_lossless(channels: int | None) -> None:
    data = encode_image(_noise(channels=channels), "exact")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), _noise(channels=channels))


def test_fast_profile_is_a_jpeg() -> None:
    data = encode_image(_noise(channels=3), "fast")
    assert Image.open(io.BytesIO(data)).format == "JPEG"


def test_fast_profile_keeps_colour_at_full_resolution() -> None:
    # The border lies at an odd column: subsampled colour would bleed over it.
    values = np.roll(_halves([200, 10, 10], [10, 10, 200]), 1, axis=1)
    decoded = np.asarray(Image.open(io.BytesIO(encode_image(values, "fast"))))
    assert np.abs(decoded.astype(int) - values).max() < 20


def test_grey_jpeg_has_one_channel() -> None:
    data = encode_image(_noise(), "fast")
    assert Image.open(io.BytesIO(data)).mode == "L"
