"""Micrographs with drawn data bars, and micrographs that resemble them."""

import functools
import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from shards.images.databar import DataBar
from shards.images.decode import Pixels
from shards.synthetic.classes import TEXTURES
from shards.synthetic.corpus import draw

SIZE = 192  # of the drawn micrographs
# Other than the drawings that the detector was tuned on.
DRAWING_SEED = 30_000
LINES = ("15.0 kV  WD 8.2 mm  x5.00k  SE2", "2021-03-04 12:30  HV  spot 3.0")


def drawn_micrograph(index: int, class_name: str | None = None) -> Pixels:
    names = list(TEXTURES)
    return draw(class_name or names[index % len(names)], SIZE, DRAWING_SEED, index)[0]


# Bars, drawn


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def drawn_bar(rows: int, background: int, ink: int, lines: int = 1) -> Pixels:
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


def below(micrograph: Pixels, *parts: Pixels) -> tuple[Pixels, DataBar]:
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
    bar = drawn_bar(SIZE // 10, background, 255 - background)
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
    "white": lambda m: below(m, drawn_bar(TENTH, 255, 0)),
    "black": lambda m: below(m, drawn_bar(TENTH, 0, 255)),
    "grey": lambda m: below(m, drawn_bar(TENTH, 128, 255)),
    "black at the top": lambda m: _above(m, drawn_bar(TENTH, 0, 255)),
    "white at the top": lambda m: _above(m, drawn_bar(TENTH, 255, 0)),
    "two lines": lambda m: below(m, drawn_bar(EIGHTH, 0, 255, lines=2)),
    "two lines, parted": lambda m: below(
        m, drawn_bar(TENTH, 255, 0), _line(0), drawn_bar(TENTH, 255, 0), _line(0)
    ),
    "empty": lambda m: below(m, drawn_bar(TENTH, 0, 255, lines=0)),
    "narrow": lambda m: below(m, drawn_bar(max(9, SIZE * 3 // 100), 0, 255)),
    "high": lambda m: below(m, drawn_bar(SIZE // 4, 0, 255, lines=2)),
    "white border": lambda m: below(m, _line(255), drawn_bar(TENTH, 0, 255)),
    "black border": lambda m: below(m, _line(0), drawn_bar(TENTH, 255, 0)),
    "border at the top": lambda m: _above(m, drawn_bar(TENTH, 255, 0), _line(0)),
    "white, JPEG": lambda m: _jpeg_of(*below(m, drawn_bar(TENTH, 255, 0))),
    "two lines, JPEG": lambda m: _jpeg_of(*below(m, drawn_bar(EIGHTH, 0, 255, lines=2))),
    "empty, JPEG": lambda m: _jpeg_of(*below(m, drawn_bar(TENTH, 0, 255, lines=0))),
    "top, border, JPEG": lambda m: _jpeg_of(*_above(m, drawn_bar(TENTH, 0, 255), _line(255))),
    "scaled down": lambda m: _scaled(*below(m, drawn_bar(TENTH, 0, 255)), 0.73),
    "scaled up": lambda m: _scaled(*below(m, drawn_bar(TENTH, 255, 0)), 1.37),
    "scaled, JPEG": lambda m: _jpeg_of(
        *_scaled(*below(m, drawn_bar(EIGHTH, 255, 0, lines=2)), 0.73)
    ),
}
TRANSLUCENT: dict[str, Draw] = {
    "dark, 0.7": lambda m: _translucent(m, 0, 0.7),
    "dark, 0.5": lambda m: _translucent(m, 0, 0.5),
    "light, 0.5": lambda m: _translucent(m, 255, 0.5),
    "dark, 0.5, JPEG": lambda m: _jpeg_of(*_translucent(m, 0, 0.5)),
}


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
