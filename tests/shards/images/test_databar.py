"""Data bars of many makers are found to the row; micrographs that resemble them stay whole."""

from collections import Counter

import numpy as np
import pytest
from bars import BARS, SIZE, SPOILS, TENTH, TRANSLUCENT, Draw, below, drawn_bar, drawn_micrograph
from real_images import real_corpus

from shards.images.databar import DataBar, crop_data_bar, find_data_bar
from shards.images.decode import Pixels, decode_image
from shards.sources.listing import is_image_name

SEEDS = range(100)
ROW_TOLERANCE = 3


@pytest.fixture(scope="module")
def micrographs() -> list[Pixels]:
    """100 images of all textures."""
    return [drawn_micrograph(index) for index in SEEDS]


@pytest.fixture(scope="module")
def layered_oxides() -> list[Pixels]:
    """100 images of horizontal layers, the likest to bars."""
    return [drawn_micrograph(index, "layered_oxide") for index in SEEDS]


def _found(make: Draw, micrographs: list[Pixels]) -> int:
    """How many bars are found; one found elsewhere is an error in any case."""
    found = 0
    for micrograph in micrographs:
        image, drawn = make(micrograph)
        bar = find_data_bar(image)
        if bar is not None:
            assert bar.edge == drawn.edge
            assert abs(bar.row - drawn.row) <= ROW_TOLERANCE
            found += 1
    return found


@pytest.mark.parametrize("kind", BARS)
def test_bars_are_found_to_the_row(kind: str, micrographs: list[Pixels]) -> None:
    # All but a few: nothing parts a bar from a micrograph of the same grey.
    assert _found(BARS[kind], micrographs) >= 97


@pytest.mark.parametrize("kind", TRANSLUCENT)
def test_most_translucent_bars_are_found(kind: str, micrographs: list[Pixels]) -> None:
    # The rest lie over noise or an even grey, which show nothing going on beneath them.
    assert _found(TRANSLUCENT[kind], micrographs) >= 70


@pytest.mark.parametrize("kind", ["white", "black at the top", "white border"])
def test_bars_are_found_on_layers(kind: str, layered_oxides: list[Pixels]) -> None:
    assert _found(BARS[kind], layered_oxides) >= 97


@pytest.mark.parametrize("upside_down", [False, True], ids=["", "upside down"])
@pytest.mark.parametrize("spoil", SPOILS)
def test_micrographs_like_bars_stay_whole(
    spoil: str, upside_down: bool, micrographs: list[Pixels]
) -> None:
    for index, micrograph in enumerate(micrographs):
        image = SPOILS[spoil](micrograph, np.random.default_rng([index, 2]))
        assert find_data_bar(image[::-1] if upside_down else image) is None, index


@pytest.mark.parametrize("spoil", ["as drawn", "JPEG"])
def test_horizontal_layers_stay_whole(spoil: str, layered_oxides: list[Pixels]) -> None:
    for index, micrograph in enumerate(layered_oxides):
        image = SPOILS[spoil](micrograph, np.random.default_rng([index, 2]))
        assert find_data_bar(image) is None, index


# What a bar is, and what the functions promise


def test_the_blank_band_of_a_panorama_is_cropped_as_a_bar() -> None:
    # Padding of one grey up to a straight edge holds no micrograph; nothing is lost with it.
    image, padding = below(drawn_micrograph(0), np.zeros((SIZE // 6, SIZE), np.uint8))
    assert find_data_bar(image) == padding


def test_the_stepped_rim_of_a_panorama_is_left() -> None:
    # Its tiles end at different rows: a straight crop would cut the longest.
    image = drawn_micrograph(0).copy()
    image[-30:, : SIZE // 2] = 0
    image[-15:, SIZE // 2 :] = 0
    assert find_data_bar(image) is None


def test_a_band_above_a_quarter_of_the_height_is_left() -> None:
    assert find_data_bar(below(drawn_micrograph(0), drawn_bar(SIZE // 2, 0, 255))[0]) is None


def test_of_two_bars_the_lower_is_found_first() -> None:
    bar = drawn_bar(TENTH, 0, 255)
    image = np.vstack([bar, drawn_micrograph(0), bar])
    lower = find_data_bar(image)
    assert lower == DataBar("bottom", TENTH + SIZE)
    assert find_data_bar(crop_data_bar(image, lower)) == DataBar("top", TENTH)


def test_colour_in_the_bar_does_not_matter() -> None:
    grey, drawn = below(drawn_micrograph(0), drawn_bar(TENTH, 0, 255))
    image = np.repeat(grey[..., None], 3, axis=2)
    image[drawn.row + 2 : drawn.row + 12, 20:40] = (200, 30, 30)  # a maker's logo
    assert find_data_bar(image) == drawn


@pytest.mark.parametrize("kind", ["black", "black at the top"])
def test_crop_leaves_the_micrograph(kind: str) -> None:
    micrograph = drawn_micrograph(0)
    image, drawn = BARS[kind](micrograph)
    assert np.array_equal(crop_data_bar(image, drawn), micrograph)


# Real micrographs

# "ncm*": 1280 x 960 pixels, a black bar below. Of the others, 14 have a bar as well, of Zeiss,
# Hitachi or FEI, found by looking; the rows are where it begins, read from the enlarged image.
NCM_ROW = 896
REAL_BARS = {
    "1b3c6536a3.png": 463,
    "3027f9ffe7.png": 475,
    "39b0dc1f52.png": 462,
    "39dda96b25.png": 516,
    "555eb05b4c.png": 476,
    "7ecd3c2ab9.png": 518,
    "8c22d1acd5.png": 492,
    "8d7fc4c578.png": 480,
    "8e1269eba3.png": 477,
    "96c772f28b.png": 481,
    "a492171fa8.png": 514,
    "bc5529f7ca.png": 480,
}
# Bars too: resampled and compressed until their background is no longer of one grey.
MARRED_BARS = {"39b3a6db5e.png", "b1fc590830.png"}


@pytest.mark.slow
def test_bars_of_real_micrographs_are_found_to_the_row_and_nothing_else() -> None:
    missed, touched, counts = [], [], Counter[str]()
    for path in sorted(real_corpus().rglob("*")):
        if not is_image_name(path.name) or path.name in MARRED_BARS:
            continue
        bar = find_data_bar(decode_image(path.read_bytes()).pixels)
        kind = "ncm" if path.parent.name.startswith("ncm") else "other"
        row = NCM_ROW if kind == "ncm" else REAL_BARS.get(path.name)
        counts["none" if row is None else kind] += 1
        if row is None and bar is not None:
            touched.append(path.name)
        if row is not None and (
            bar is None or bar.edge != "bottom" or abs(bar.row - row) > ROW_TOLERANCE
        ):
            missed.append(path.name)
    assert (missed, touched) == ([], [])
    assert counts == {"ncm": 235, "other": len(REAL_BARS), "none": 675}
