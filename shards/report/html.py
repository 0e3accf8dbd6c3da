"""Render the report's template: one self-contained HTML page; every value is escaped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micrograph.templates import render_template
from shards.report.set_stats import numbers, readable
from shards.report.thumbnails import Picture
from shards.shard_format.read_tables import printable

Shape = tuple[str, Mapping[str, str]]  # name and attributes of an SVG element


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A picture with shapes over it, in pixels of what it shows; a box where there is none."""

    picture: Picture | None
    hint: str
    kind: str = ""  # CSS class
    shapes: Sequence[Shape] = ()
    name: str = ""  # of a file: the first line of the caption
    strong: str = ""  # the start of the second
    caption: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FigurePair:
    """Two figures side by side, with one caption."""

    figures: Sequence[Figure]
    name: str = ""
    strong: str = ""
    caption: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a stacked bar chart, with a label before and a note after it."""

    label: str
    parts: Sequence[tuple[str, int]]  # CSS class, value
    note: str
    hint: str = ""
    link: str = ""
    badge: str = ""

    @property
    def total(self) -> int:
        return sum(value for _, value in self.parts)


@dataclass(frozen=True, slots=True)
class Section:
    """A section's title; `count` follows it, also in the table of contents."""

    title: str
    count: int | None = None


def render(context: Mapping[str, Any]) -> str:
    """The whole page."""
    filters = {
        "amount": amount,
        "number": number,
        "numbers": numbers,
        "option_value": _option_value,
        "readable": readable,
    }
    template = Path(__file__).with_name("report.html.jinja")
    return render_template(template, filters, printable, **context)


def number(count: int) -> str:
    """`110,000`"""
    return f"{count:,}"


def amount(count: int, thing: str) -> str:
    """`1 image`, `2 images`"""
    return f"{number(count)} {thing}{'s'[: count != 1]}"


def rectangle(left: float, top: float, right: float, bottom: float, kind: str = "") -> Shape:
    width, height = right - left, bottom - top
    sides = {"x": left, "y": top, "width": width, "height": height}
    return "rect", {"class": kind} | {name: f"{value:g}" for name, value in sides.items()}


def polygon(points: Sequence[complex]) -> Shape:
    """A polygon through x + i y."""
    return "polygon", {"points": " ".join(f"{p.real:.1f},{p.imag:.1f}" for p in points)}


def line(left: float, top: float, right: float, bottom: float) -> Shape:
    ends = {"x1": left, "y1": top, "x2": right, "y2": bottom}
    return "line", {name: f"{value:g}" for name, value in ends.items()}


def _option_value(value: object) -> str:
    if value is None:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
