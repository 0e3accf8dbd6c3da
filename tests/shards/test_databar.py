"""Data bars of many makers are found to the row; micrographs that resemble them stay whole."""

import functools
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from shards.databar import DataBar, crop_data_bar, find_data_bar
from shards.images import Pixels, decode_image
from shards.sources import is_image_name
from shards.synthetic import draw
from shards.textures import TEXTURES

SIZE = 192  # of the drawn micrographs
SEEDS = range(100)
# Other than the drawings that the detector was tuned on.
DRAWING_SEED = 30_000
ROW_TOLERANCE = 3
LINES = ("15.0 kV  WD 8.2 mm  x5.00k  SE2", "2021-03-04 12:30  HV  spot 3.0")


def _micrograph(index: int, class_name: str | None = None) -> Pixels:
    names = list(TEXTURES)
    return draw(class_name or names[index % len(names)], SIZE, DRAWING_SEED, index)[0]


@pytest.fixture(scope="module")
def micrographs() -> list[Pixels]:
    """100 images of all textures."""
    return [_micrograph(index) for index in SEEDS]


@pytest.fixture(scope="module")
def layered_oxides() -> list[Pixels]:
    """100 images of horizontal layers, the likest to bars."""
    return [_micrograph(index, "layered_oxide") for index in SEEDS]


# Bars, drawn


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _bar(rows: int, background: int, ink: int, lines: int = 1) -> Pixels:
    """A bar with `lines` lines of text, and a scale where there are any."""
    image = Image.new("L", (SIZE, rows), background)
    canvas = ImageDraw.Draw(image)
    font = _font(max(7, int(0.6 * rows / max(lines, 1))))
    for line in range(lines):
        canvas.text((4, rows * line // lines + 1), LINES[line], font=font, fill=ink)
    if lines:
        left, right, middle = int(0.7 * SIZE), int(0.92 * SIZE), rows // 2
        canvas.rectangle((left, middle, right, middle + max(1, rows // 10)), fill=ink)
    return np.asarray(image)


def _line(grey: int) -> Pixels:
    return np.full((1, SIZE), grey, np.uint8)


def _below(micrograph: Pixels, *parts: Pixels) -> tuple[Pixels, DataBar]:
    return np.vstack([micrograph, *parts]), DataBar("bottom", len(micrograph))


def _above(micrograph: Pixels, *parts: Pixels) -> tuple[Pixels, DataBar]:
    image = np.vstack([*parts, micrograph])
    return image, DataBar("top", len(image) - len(micrograph))


def _jpeg(pixels: Pixels, quality: int = 75) -> Pixels:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def _scaled(image: Pixels, bar: DataBar, factor: float) -> tuple[Pixels, DataBar]:
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    scaled = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(scaled), DataBar(bar.edge, round(bar.row * factor))


def _translucent(micrograph: Pixels, background: int, opacity: float) -> tuple[Pixels, DataBar]:
    """A bar drawn over the micrograph, which shows through it."""
    bar = _bar(SIZE // 10, background, 255 - background)
    beneath = micrograph[-len(bar) :]
    veiled = opacity * background + (1 - opacity) * beneath
    veiled = np.where(bar == background, veiled, bar)
    image = np.vstack([micrograph[: -len(bar)], np.rint(veiled).astype(np.uint8)])
    return image, DataBar("bottom", SIZE - len(bar))


def _jpeg_of(image: Pixels, bar: DataBar) -> tuple[Pixels, DataBar]:
    return _jpeg(image), bar


Draw = Callable[[Pixels], tuple[Pixels, DataBar]]
TENTH, EIGHTH = SIZE // 10, SIZE // 8
BARS: dict[str, Draw] = {
    "white": lambda m: _below(m, _bar(TENTH, 255, 0)),
    "black": lambda m: _below(m, _bar(TENTH, 0, 255)),
    "grey": lambda m: _below(m, _bar(TENTH, 128, 255)),
    "black at the top": lambda m: _above(m, _bar(TENTH, 0, 255)),
    "white at the top": lambda m: _above(m, _bar(TENTH, 255, 0)),
    "two lines": lambda m: _below(m, _bar(EIGHTH, 0, 255, lines=2)),
    "two lines, parted": lambda m: _below(
        m, _bar(TENTH, 255, 0), _line(0), _bar(TENTH, 255, 0), _line(0)
    ),
    "empty": lambda m: _below(m, _bar(TENTH, 0, 255, lines=0)),
    "narrow": lambda m: _below(m, _bar(max(9, SIZE * 3 // 100), 0, 255)),
    "high": lambda m: _below(m, _bar(SIZE // 4, 0, 255, lines=2)),
    "white border": lambda m: _below(m, _line(255), _bar(TENTH, 0, 255)),
    "black border": lambda m: _below(m, _line(0), _bar(TENTH, 255, 0)),
    "border at the top": lambda m: _above(m, _bar(TENTH, 255, 0), _line(0)),
    "white, JPEG": lambda m: _jpeg_of(*_below(m, _bar(TENTH, 255, 0))),
    "two lines, JPEG": lambda m: _jpeg_of(*_below(m, _bar(EIGHTH, 0, 255, lines=2))),
    "empty, JPEG": lambda m: _jpeg_of(*_below(m, _bar(TENTH, 0, 255, lines=0))),
    "top, border, JPEG": lambda m: _jpeg_of(*_above(m, _bar(TENTH, 0, 255), _line(255))),
    "scaled down": lambda m: _scaled(*_below(m, _bar(TENTH, 0, 255)), 0.73),
    "scaled up": lambda m: _scaled(*_below(m, _bar(TENTH, 255, 0)), 1.37),
    "scaled, JPEG": lambda m: _jpeg_of(*_scaled(*_below(m, _bar(EIGHTH, 255, 0, lines=2)), 0.73)),
}
TRANSLUCENT: dict[str, Draw] = {
    "dark, 0.7": lambda m: _translucent(m, 0, 0.7),
    "dark, 0.5": lambda m: _translucent(m, 0, 0.5),
    "light, 0.5": lambda m: _translucent(m, 255, 0.5),
    "dark, 0.5, JPEG": lambda m: _jpeg_of(*_translucent(m, 0, 0.5)),
}


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


# Micrographs like bars


def _dim_floor(micrograph: Pixels, rng: np.random.Generator) -> Pixels:
    """The lower part is dim, and has the noise of a dim signal."""
    image = micrograph.astype(np.float64)
    lower = image[int(SIZE * rng.uniform(0.67, 0.97)) :]
    lower *= rng.uniform(0.02, 0.2)
    lower += rng.normal(0, rng.uniform(0.8, 4), lower.shape)
    return _as_pixels(image)


def _straight_interface(micrograph: Pixels, rng: np.random.Generator) -> Pixels:
    """Resin of one grey below an edge straight to the row; focus and noise of a good microscope."""
    image = micrograph.astype(np.float64)
    image[int(SIZE * rng.uniform(0.76, 0.97)) :] = rng.uniform(5, 250)
    image = ndimage.gaussian_filter1d(image, rng.uniform(0.3, 1), axis=0)
    return _as_pixels(image + rng.normal(0, rng.uniform(1.2, 5), image.shape))


def _curtained_interface(micrograph: Pixels, rng: np.random.Generator) -> Pixels:
    """The same, cut by an ion beam: its vertical streaks cross the interface."""
    streaks = ndimage.gaussian_filter1d(rng.normal(size=SIZE), 1) * rng.uniform(3, 25)
    return _as_pixels(_straight_interface(micrograph, rng) + streaks)


def _clipped(micrograph: Pixels, rng: np.random.Generator) -> Pixels:
    """Pure black or white below a wavy edge."""
    waves = ndimage.gaussian_filter1d(rng.normal(size=SIZE), rng.uniform(2, 12))
    waves *= rng.uniform(1, 12) / waves.std()
    below = np.arange(SIZE)[:, None] > SIZE * rng.uniform(0.76, 0.97) + waves
    image = micrograph.copy()
    image[below] = rng.choice([0, 255])
    return image


def _beam_jump(micrograph: Pixels, rng: np.random.Generator) -> Pixels:
    """Brightness and gain change in the middle of the scan."""
    image = micrograph.astype(np.float64)
    lower = image[int(SIZE * rng.uniform(0.76, 0.95)) :]
    lower *= rng.uniform(0.6, 1.2)
    lower += rng.uniform(-40, 40)
    return _as_pixels(image)


def _seam(micrograph: Pixels, rng: np.random.Generator) -> Pixels:
    """The next tile of a mosaic, cut from another place."""
    image = micrograph.copy()
    image[int(SIZE * 0.85) :] = np.roll(micrograph[: SIZE - int(SIZE * 0.85)], SIZE // 3, axis=1)
    return image


def _framed(micrograph: Pixels, rng: np.random.Generator) -> Pixels:
    """A black scanning margin and a white line, at one edge or all around."""
    image = micrograph.copy()
    margin = int(rng.integers(1, SIZE // 25 + 1))
    image[-margin:] = 0
    image[-margin - 1] = 255
    if rng.random() < 0.5:
        image[:, :margin] = 0
        image[:, -margin:] = 0
        image[:margin] = 0
    return image


def _labelled(micrograph: Pixels, rng: np.random.Generator) -> Pixels:
    """A panel letter and a scale bar burnt into the micrograph, in boxes."""
    image = Image.fromarray(micrograph)
    canvas = ImageDraw.Draw(image)
    box, ink = ((0, 255), (255, 0))[int(rng.integers(2))]
    low = int(SIZE * rng.uniform(0.84, 0.94))
    canvas.rectangle((int(SIZE * rng.uniform(0.55, 0.75)), low, SIZE, SIZE), fill=box)
    canvas.text((SIZE - 60, low + 2), "500 nm", fill=ink, font=_font(12))
    canvas.rectangle((0, low, int(SIZE * rng.uniform(0.1, 0.25)), SIZE), fill=box)
    canvas.text((5, low), "(a)", fill=ink, font=_font(14))
    return np.asarray(image)


def _as_pixels(image: npt.NDArray[np.float64]) -> Pixels:
    pixels: Pixels = np.rint(image.clip(0, 255)).astype(np.uint8)
    return pixels


Spoil = Callable[[Pixels, np.random.Generator], Pixels]
SPOILS: dict[str, Spoil] = {
    "as drawn": lambda micrograph, rng: micrograph,
    "JPEG": lambda micrograph, rng: _jpeg(micrograph),
    "dark lower part": _dim_floor,
    "straight interface": _straight_interface,
    "curtained interface": _curtained_interface,
    "clipped lower part": _clipped,
    "clipped lower part, JPEG": lambda micrograph, rng: _jpeg(_clipped(micrograph, rng)),
    "jump of the beam": _beam_jump,
    "seam of a mosaic": _seam,
    "frame": _framed,
    "labels": _labelled,
}


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
    image, padding = _below(_micrograph(0), np.zeros((SIZE // 6, SIZE), np.uint8))
    assert find_data_bar(image) == padding


def test_the_stepped_rim_of_a_panorama_is_left() -> None:
    # Its tiles end at different rows: a straight crop would cut the longest.
    image = _micrograph(0).copy()
    image[-30:, : SIZE // 2] = 0
    image[-15:, SIZE // 2 :] = 0
    assert find_data_bar(image) is None


def test_a_band_above_a_quarter_of_the_height_is_left() -> None:
    assert find_data_bar(_below(_micrograph(0), _bar(SIZE // 2, 0, 255))[0]) is None


def test_an_image_of_one_grey_has_no_bar() -> None:
    assert find_data_bar(np.zeros((64, 64), np.uint8)) is None


@pytest.mark.parametrize("shape", [(32, 32), (32, 2000), (2000, 32), (33, 47, 3)])
def test_any_shape_is_looked_at(shape: tuple[int, ...]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert find_data_bar(noise) is None


def test_of_two_bars_the_lower_is_found_first() -> None:
    bar = _bar(TENTH, 0, 255)
    image = np.vstack([bar, _micrograph(0), bar])
    lower = find_data_bar(image)
    assert lower == DataBar("bottom", TENTH + SIZE)
    assert find_data_bar(crop_data_bar(image, lower)) == DataBar("top", TENTH)


def test_colour_in_the_bar_does_not_matter() -> None:
    grey, drawn = _below(_micrograph(0), _bar(TENTH, 0, 255))
    image = np.repeat(grey[..., None], 3, axis=2)
    image[drawn.row + 2 : drawn.row + 12, 20:40] = (200, 30, 30)  # a maker's logo
    assert find_data_bar(image) == drawn


@pytest.mark.parametrize("kind", ["black", "black at the top"])
def test_crop_leaves_the_micrograph(kind: str) -> None:
    micrograph = _micrograph(0)
    image, drawn = BARS[kind](micrograph)
    assert np.array_equal(crop_data_bar(image, drawn), micrograph)


def test_the_pixels_are_only_read() -> None:
    image, drawn = BARS["black"](_micrograph(0))
    image.flags.writeable = False
    assert find_data_bar(image) == drawn


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
Bars = dict[Path, DataBar | None]


def _real_images() -> Iterator[Path]:
    beside = Path(__file__).parents[3] / "shared" / "data" / "corpus"
    source = Path(os.environ.get("MICROGRAPHS", beside))
    if not source.is_dir():
        pytest.skip("no real micrographs: set MICROGRAPHS to a folder of class folders")
    return (path for path in sorted(source.rglob("*")) if is_image_name(path.name))


@pytest.fixture(scope="module")
def real_bars() -> Bars:
    return {path: find_data_bar(decode_image(path.read_bytes()).pixels) for path in _real_images()}


def _is_ncm(path: Path) -> bool:
    return path.parent.name.startswith("ncm")


@pytest.mark.slow
def test_every_bar_of_the_ncm_images_is_found_to_the_row(real_bars: Bars) -> None:
    ncm = {path: bar for path, bar in real_bars.items() if _is_ncm(path)}
    missed = [
        path.name
        for path, bar in ncm.items()
        if bar is None or bar.edge != "bottom" or abs(bar.row - NCM_ROW) > ROW_TOLERANCE
    ]
    assert len(ncm) == 235
    assert missed == []


@pytest.mark.slow
def test_every_bar_of_another_maker_is_found_to_the_row(real_bars: Bars) -> None:
    found = {path.name: bar for path, bar in real_bars.items() if path.name in REAL_BARS}
    assert found.keys() == REAL_BARS.keys()
    for name, bar in found.items():
        assert bar is not None, name
        assert bar.edge == "bottom", name
        assert abs(bar.row - REAL_BARS[name]) <= ROW_TOLERANCE, name


@pytest.mark.slow
def test_no_real_micrograph_without_a_bar_is_touched(real_bars: Bars) -> None:
    barred = REAL_BARS.keys() | MARRED_BARS
    others = {p: bar for p, bar in real_bars.items() if not _is_ncm(p) and p.name not in barred}
    assert len(others) == 675
    assert [path.name for path, bar in others.items() if bar is not None] == []
