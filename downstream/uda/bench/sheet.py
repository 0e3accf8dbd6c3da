"""A table of strings, numbers and spreads, for Markdown and for CSV. No torch."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from downstream.uda.bench.spread import Spread

NONE = "-"  # where there is no number


@dataclass(frozen=True, slots=True)
class Percent:
    """A share in [0, 1], spelt in percent; of a difference, with its sign."""

    value: float
    signed: bool = False
    low: float = math.nan  # of an interval
    high: float = math.nan


Entry = str | int | Percent | Spread | None


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table; the columns are the rows' keys in the order in which they first come."""

    name: str  # of its CSV
    title: str
    rows: Sequence[Mapping[str, Entry]]
    notes: tuple[str, ...] = ()


def sheet_page(sheet: Sheet) -> list[str]:
    """As lines of Markdown."""
    columns = _columns(sheet.rows)
    body = [_line(_spell(row.get(name)) for name in columns) for row in sheet.rows]
    notes = [line for note in sheet.notes for line in ("", note)]
    return [f"## {sheet.title}", "", _line(columns), _line(["---"] * len(columns)), *body, *notes]


def sheet_csv(sheet: Sheet) -> str:
    """As CSV: shares in [0, 1], a spread or an interval in columns of its own."""
    rows = [_flat(row) for row in sheet.rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(_columns(rows)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def percent(value: float, *, signed: bool = False) -> str:
    """A share as `79.4`, a difference as `+2.5`."""
    if math.isnan(value):
        return NONE
    return f"{100 * value:{'+' if signed else ''}.1f}"


def _columns(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _spell(entry: Entry) -> str:
    if entry is None:
        return ""
    if isinstance(entry, Spread):
        spread = "" if math.isnan(entry.std) else f" ± {percent(entry.std)}"
        return f"{percent(entry.mean)}{spread}" if entry.n else NONE
    if isinstance(entry, Percent):
        text = percent(entry.value, signed=entry.signed)
        if math.isnan(entry.low):
            return text
        ends = (percent(end, signed=entry.signed) for end in (entry.low, entry.high))
        return f"{text} [{', '.join(ends)}]"
    return str(entry)


def _flat(row: Mapping[str, Entry]) -> dict[str, str | float]:
    flat: dict[str, str | float] = {}
    for name, entry in row.items():
        if isinstance(entry, Spread):
            parts = ("mean", "std", "fold_std", "seed_std", "n")
            flat |= {f"{name} {part}": _plain(getattr(entry, part)) for part in parts}
        elif isinstance(entry, Percent):
            flat[name] = _plain(entry.value)
            if not math.isnan(entry.low):
                flat |= {f"{name} low": _plain(entry.low), f"{name} high": _plain(entry.high)}
        else:
            flat[name] = "" if entry is None else entry
    return flat


def _plain(value: float) -> str | float:
    return "" if math.isnan(value) else float(f"{value:.6g}")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
