"""What paper B printed: its Tables 1 to 7, the figures that its text alone gives, its RDTs checked.

`downstream/published/paper_b.csv` names table and section of every number, and what the text that
was at hand has lost (headings of Tables 1 and 7, symbols of etchings). Nothing is filled in.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from downstream.uda.bench.rdt import implied_reference, relative_transferability

_HALF_DIGIT = 0.0005  # percentages are printed with one decimal


@dataclass(frozen=True, slots=True)
class Printed:
    """One printed number; percentages are shares in [0, 1]."""

    table: str  # "1" to "7", or "" for the text
    experiment: str  # the paper's "Exp.#": S.1 to S.10, T1.1 …
    domain: str  # S, T1, T2, T3, T3v
    method: str  # ours: source_only is the paper's DG, adaptsegnet its UDA
    network: str
    arch: str
    init: str  # image-nanosem: ImageNet, then NanoSEM
    augmentation: str
    epochs: int | None
    quantity: str
    value: float | None  # None: words, or lost
    std: float | None  # over the five folds
    printed: str
    source: str
    note: str


@dataclass(frozen=True, slots=True)
class RdtCheck:
    """A printed RDT beside the one that follows from the printed mIoUs."""

    table: str
    experiment: str
    epochs: int | None
    printed: float
    recomputed: float
    implied_reference: float  # source mIoU that the printed RDT was made with
    consistent: bool  # there are unrounded numbers that give all three printed ones


@cache
def printed() -> tuple[Printed, ...]:
    """All rows, in the paper's order."""
    text = (files("downstream") / "published" / "paper_b.csv").read_text(encoding="utf-8")
    return tuple(_row(row) for row in csv.DictReader(text.splitlines()))


def printed_cells(table: str, quantity: str) -> tuple[Printed, ...]:
    """The rows of one table ("" for the text) and quantity."""
    return tuple(row for row in printed() if (row.table, row.quantity) == (table, quantity))


def check_rdts() -> list[RdtCheck]:
    """Every printed RDT against Table 2: UDA against S.10, the others against their own row.

    Of Tables 3 and 4, T1.3 and T2.3 do not fit; both imply a reference of 76.7 %, not S.3's 78.7 %:
    S.3 is the experiment that was prolonged to 400 epochs, so the reference was probably its
    200-epoch model. The RDTs after 100 epochs (Table 6) do not fit either, for their reference is
    that of 100 epochs, which is not printed.
    """
    references = {row.experiment: row.value for row in printed_cells("2", "miou")}
    mious = {
        (row.table, row.experiment, row.epochs): row.value
        for row in printed()
        if row.quantity == "miou"
    }
    checks = []
    for row in printed():
        if row.quantity != "rdt" or row.value is None:
            continue
        number = row.experiment.partition(".")[2]
        reference = references["S.10" if row.network == "DeepLabV2" else f"S.{number}"]
        target = mious[row.table, row.experiment, row.epochs]
        assert reference is not None and target is not None  # each RDT has both beside it
        low = relative_transferability(target - _HALF_DIGIT, reference + _HALF_DIGIT)
        high = relative_transferability(target + _HALF_DIGIT, reference - _HALF_DIGIT)
        fits = low <= row.value + _HALF_DIGIT and row.value - _HALF_DIGIT <= high
        checks.append(
            RdtCheck(
                row.table,
                row.experiment,
                row.epochs,
                row.value,
                relative_transferability(target, reference),
                implied_reference(target, row.value),
                fits,
            )
        )
    return checks


def _row(row: dict[str, str]) -> Printed:
    unit = 100 if row["unit"] == "percent" else 1

    def number(name: str) -> float | None:
        return float(row[name]) / unit if row[name] else None

    return Printed(
        table=row["table"],
        experiment=row["experiment"],
        domain=row["domain"],
        method=row["method"],
        network=row["network"],
        arch=row["arch"],
        init=row["init"],
        augmentation=row["augmentation"],
        epochs=int(row["epochs"]) if row["epochs"] else None,
        quantity=row["quantity"],
        value=number("value"),
        std=number("std"),
        printed=row["printed"],
        source=row["source"],
        note=row["note"],
    )
