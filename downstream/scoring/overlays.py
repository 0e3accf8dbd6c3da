"""Draw overlays, agreement maps and contact sheets of masks. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from shards.images.decode import Pixels

# Okabe and Ito's colour-blind safe palette; the first class, the background, is not coloured.
CLASS_COLOURS = (
    (0, 0, 0),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
)
# Paper A, figures 4 and 5.
AGREEMENT = {
    "true positive": (255, 255, 255),
    "false positive": (0, 255, 255),
    "false negative": (255, 0, 255),
    "true negative": (0, 0, 0),
}
_GAP, _LINE = 6, 18  # pixels
_MIN_WIDTH = 200  # pixels of a panel with its caption

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Panel:
    """An image `(H, W, 3)` uint8 and its caption."""

    pixels: Pixels
    caption: str = ""


def class_colour(index: int) -> tuple[int, int, int]:
    """The colour of a class in all pictures."""
    return CLASS_COLOURS[index] if index == 0 else CLASS_COLOURS[1 + (index - 1) % 7]


def colourise(mask: npt.NDArray[np.int64]) -> Pixels:
    """A mask of class indices as colours, `(H, W, 3)` uint8."""
    table = np.array([class_colour(i) for i in range(int(mask.max(initial=0)) + 1)], np.uint8)
    return np.asarray(table[mask])


def overlay(pixels: Pixels, mask: npt.NDArray[np.int64], opacity: float = 0.45) -> Pixels:
    """Class colours over a micrograph; the background is not coloured."""
    base = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
    mixed = (1 - opacity) * base + opacity * colourise(mask)
    return np.where(mask[..., None] == 0, base, mixed).astype(np.uint8)


def agreement_map(
    predicted: npt.NDArray[np.int64], target: npt.NDArray[np.int64], index: int
) -> Pixels:
    """Agreement on one class: TP white, FP cyan, FN magenta, TN black."""
    truth, found = target == index, predicted == index
    picture = np.zeros((*target.shape, 3), np.uint8)
    picture[truth & found] = AGREEMENT["true positive"]
    picture[~truth & found] = AGREEMENT["false positive"]
    picture[truth & ~found] = AGREEMENT["false negative"]
    return picture


def contact_sheet(
    rows: Sequence[Sequence[Panel]],
    legend: Mapping[str, tuple[int, int, int]],
    title: str,
    side: int = 256,
) -> Image.Image:
    """Rows of panels, each at most `side` pixels wide and high, under a title and a legend."""
    shown = [[_thumbnail(panel.pixels, side) for panel in row] for row in rows]
    columns = max((len(row) for row in rows), default=1)
    wide = max((picture.width for row in shown for picture in row), default=side)
    cell = max(wide, min(side, _MIN_WIDTH)) + _GAP  # room for the captions
    heights = [max((picture.height for picture in row), default=0) for row in shown]
    top = 2 * _LINE + 3 * _GAP
    size = (max(columns * cell + _GAP, 480), top + sum(h + _GAP + _LINE for h in heights))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(12)
    draw.text((_GAP, _GAP), title, "black", font)
    _draw_legend(draw, legend, font)
    for row, pictures, height in zip(rows, shown, heights, strict=True):
        for x, (panel, picture) in enumerate(zip(row, pictures, strict=True)):
            left = _GAP + x * cell
            canvas.paste(picture, (left, top))
            caption = _shorten(panel.caption, cell - _GAP)
            draw.text((left, top + picture.height + 1), caption, "black", font)
        top += height + _GAP + _LINE
    return canvas


def _thumbnail(pixels: Pixels, side: int) -> Image.Image:
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    return picture


def _draw_legend(
    draw: ImageDraw.ImageDraw, legend: Mapping[str, tuple[int, int, int]], font: Font
) -> None:
    x, y = float(_GAP), _LINE + 2 * _GAP
    for name, colour in legend.items():
        draw.rectangle((x, y, x + 12, y + 12), fill=colour, outline="black")
        draw.text((x + 16, y - 1), name, "black", font)
        x += 16 + draw.textlength(name, font) + 12


def _shorten(text: str, width: int) -> str:
    letters = width // 6  # pixels per letter
    return text if len(text) <= letters else text[: letters - 1] + "…"
