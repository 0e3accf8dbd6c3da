"""One self-contained HTML page, and the pieces it is made of: tables, bars, pictures, folds.

Pieces are strings of finished HTML; whatever comes from a file or a person goes through `text`.
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from shards.tables import printable
from shards.thumbnails import Picture

_STYLE = Path(__file__).with_name("report.css")
_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<nav aria-label="Contents"><ul>
$contents
</ul></nav>
<main>
<h1>$title</h1>
$sections
</main>
</body>
</html>
""")


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page; `count` stands behind its name in the table of contents."""

    anchor: str
    title: str
    body: str
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a bar chart: the lengths of its parts, stacked, and what is written beside."""

    label: str  # HTML
    parts: Sequence[tuple[str, int]]  # CSS class, value
    note: str  # HTML
    hint: str = ""


def render(title: str, sections: Sequence[Section]) -> str:
    """The whole page."""
    return _PAGE.substitute(
        title=text(title),
        style=_STYLE.read_text(encoding="utf-8"),
        contents="\n".join(
            f'<li><a href="#{s.anchor}">{text(s.title)}{_count(s.count)}</a></li>' for s in sections
        ),
        sections="\n".join(
            f'<section id="{s.anchor}">\n<h2>{text(s.title)}{_count(s.count)}</h2>\n{s.body}\n'
            "</section>"
            for s in sections
        ),
    )


def text(value: object) -> str:
    """Anything as text of the page, also within quotes."""
    return html.escape(printable(value))


def code(value: object) -> str:
    """A name of a file or class, set apart from the words around it."""
    return f"<code>{text(value)}</code>"


def option(flag: str) -> str:
    """A flag to be typed."""
    return f'<code class="option">{text(flag)}</code>'


def paragraph(content: str, kind: str = "") -> str:
    return f'<p class="{kind}">{content}</p>' if kind else f"<p>{content}</p>"


def number(count: int) -> str:
    """`110,000`"""
    return f"{count:,}"


def amount(count: int, thing: str) -> str:
    """`1 image`, `2 images`"""
    return f"{number(count)} {thing}{'s'[: count != 1]}"


def badge(content: str, kind: str = "") -> str:
    return f'<span class="badge {kind}">{text(content)}</span>'


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """Big numbers with a word below: (word, number)."""
    items = "".join(f"<div><dd>{text(v)}</dd><dt>{text(k)}</dt></div>" for k, v in facts)
    return f'<dl class="tiles">{items}</dl>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """`<` before a column's name: its numbers stand to the right. Cells are HTML."""
    right = [name.startswith("<") for name in header]
    head = "".join(
        _cell("th", text(name.lstrip("<")), r) for name, r in zip(header, right, strict=True)
    )
    body = "\n".join(
        "<tr>" + "".join(_cell("td", cell, r) for cell, r in zip(row, right, strict=True)) + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    return f'<div class="wide"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


def bars(rows: Sequence[Bar]) -> str:
    """Horizontal bars, stacked, on one scale."""
    longest = max((sum(value for _, value in row.parts) for row in rows), default=0) or 1
    items = []
    for row in rows:
        parts = "".join(
            f'<i class="{kind}" style="width:{100 * value / longest:.2f}%"></i>'
            for kind, value in row.parts
            if value
        )
        hint = f' title="{text(row.hint)}"' if row.hint else ""
        items.append(
            f'<li{hint}><span class="label">{row.label}</span><span class="bar">{parts}</span>'
            f'<span class="note">{row.note}</span></li>'
        )
    return '<ul class="bars">\n' + "\n".join(items) + "\n</ul>"


def figure(
    picture: Picture | None,
    *,
    hint: str,
    caption: str = "",
    kind: str = "",
    drawing: str = "",
) -> str:
    """A picture with SVG shapes over it, in pixels of what it shows; a box where there is none."""
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    if picture is None:
        inside = f'<span class="missing" title="{text(hint)}">not at hand</span>'
    else:
        over = ""
        if drawing:
            box = f"0 0 {picture.width} {picture.height}"
            over = f'<svg viewBox="{box}" preserveAspectRatio="none">{drawing}</svg>'
        inside = (
            f'<span class="picture" title="{text(hint)}">'
            f'<img src="{picture.uri}" alt="{text(hint)}">{over}</span>'
        )
    return f'<figure class="{kind}">{inside}{below}</figure>'


def gallery(figures: Iterable[str], kind: str = "") -> str:
    return f'<div class="gallery {kind}">\n' + "\n".join(figures) + "\n</div>"


def fold(summary: str, body: str, *, opened: bool = True) -> str:
    """A part that opens and closes, without any script."""
    state = " open" if opened else ""
    return f"<details{state}><summary>{summary}</summary>\n{body}\n</details>"


def rectangle(left: float, top: float, right: float, bottom: float, kind: str = "") -> str:
    """An SVG shape."""
    width, height = right - left, bottom - top
    return f'<rect class="{kind}" x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}"/>'


def polygon(points: Iterable[complex]) -> str:
    """An SVG shape through x + i y."""
    corners = " ".join(f"{point.real:.1f},{point.imag:.1f}" for point in points)
    return f'<polygon points="{corners}"/>'


def line(left: float, top: float, right: float, bottom: float) -> str:
    """An SVG shape."""
    return f'<line x1="{left:g}" y1="{top:g}" x2="{right:g}" y2="{bottom:g}"/>'


def _count(count: int | None) -> str:
    return "" if count is None else f' <span class="count">{number(count)}</span>'


def _cell(tag: str, content: str, right: bool) -> str:
    return f'<{tag} class="right">{content}</{tag}>' if right else f"<{tag}>{content}</{tag}>"
