"""Tables of a report, written as Markdown and as CSV. No torch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from micrograph.confidence_intervals import NAN, Interval

NO_VALUE = "-"

Row = Mapping[Any, object]  # column -> `Percent`, `MeanStd`, a string, a number or None


@dataclass(frozen=True, slots=True)
class Percent:
    """A share in [0, 1], or a difference of two; shown in percent."""

    value: float
    signed: bool = False
    interval: Interval = field(default_factory=lambda: Interval(NAN, NAN, "", 0))

    def __str__(self) -> str:
        text = format_percent(self.value, self.signed)
        if math.isnan(self.interval.low):
            return text
        ends = (self.interval.low, self.interval.high)
        return f"{text} [{', '.join(format_percent(end, self.signed) for end in ends)}]"

    def csv_columns(self, name: str) -> Mapping[str, object]:
        if math.isnan(self.interval.low):
            return {name: self.value}
        return {
            name: self.value,
            f"{name} low": self.interval.low,
            f"{name} high": self.interval.high,
            f"{name} interval": f"{self.interval.method}, n {self.interval.n}",
        }


@dataclass(frozen=True, slots=True)
class MeanStd:
    """Mean and standard deviation (ddof 1) of `n` shares; shown in percent."""

    mean: float
    std: float
    n: int
    others: Mapping[str, float] = field(default_factory=dict)  # in CSV only
    remark: str = ""  # in Markdown only

    def __str__(self) -> str:
        std = "" if math.isnan(self.std) else f" ± {format_percent(self.std)}"
        return format_percent(self.mean) + std + self.remark

    def csv_columns(self, name: str) -> Mapping[str, object]:
        values = {"mean": self.mean, "std": self.std, **self.others, "n": self.n}
        return {f"{name} {part}": value for part, value in values.items()}


@dataclass(frozen=True, slots=True)
class Table:
    """A table; its columns are the keys of its rows, in the order of their first use."""

    name: str  # of the CSV file, without suffix
    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()


def format_percent(share: float, signed: bool = False) -> str:
    """A share as `79.4`, a difference as `+2.5`."""
    return NO_VALUE if math.isnan(share) else f"{100 * share:{'+' if signed else ''}.1f}"


def named_rows(frame: pd.DataFrame) -> list[Any]:
    """The rows as named tuples, of type `Any` since columns of a DataFrame have no types."""
    return list(frame.itertuples())


def to_markdown(rows: Iterable[Row]) -> list[str]:
    """The lines of a Markdown table; missing entries are blank."""
    frame = pd.DataFrame(list(rows), dtype=object)
    body = frame.mask(frame.map(_is_missing), "").map(str).to_numpy().tolist()
    lines = [list(frame.columns), ["---"] * len(frame.columns), *body]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def to_csv(rows: Iterable[Row]) -> str:
    """CSV with shares in [0, 1] and six significant digits; missing entries are blank."""
    cells = (Percent, MeanStd)
    flat: list[dict[str, object]] = []
    for row in rows:
        flat.append({})
        for name, entry in row.items():
            flat[-1] |= entry.csv_columns(name) if isinstance(entry, cells) else {name: entry}
    frame = pd.DataFrame(flat, dtype=object).map(_rounded)
    return str(frame.to_csv(index=False, lineterminator="\n"))


def page(title: str, introduction: Sequence[str], tables: Iterable[Table]) -> str:
    """A Markdown page; a note that several tables share is printed once."""
    lines = [f"# {title}", *introduction]
    printed: set[str] = set()
    for table in tables:
        lines += ["", f"## {table.title}", "", *to_markdown(table.rows)]
        for note in table.notes:
            lines += [] if note in printed else ["", note]
            printed.add(note)
    return "\n".join(lines) + "\n"


def _rounded(value: Any) -> Any:
    if _is_missing(value):
        return ""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _is_missing(entry: Any) -> bool:
    return entry is None or (isinstance(entry, float) and math.isnan(entry))
