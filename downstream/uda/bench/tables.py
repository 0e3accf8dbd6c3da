"""Paper B's Tables 2 to 7 of our runs, beside the printed rows where the domains have its names.

S, T1, T2 and T3 are the paper's domains: its rows stand beside ours where a study has targets of
these names, though its images are not public and so never the same.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from downstream.uda.bench.published import Printed, printed_cells
from downstream.uda.bench.rdt import relative_transferability
from downstream.uda.bench.runs import (
    BASELINE,
    DomainScore,
    Variant,
    longest,
    scores_on,
    source_scores,
)
from downstream.uda.bench.sheet import NONE, Entry, Percent, Sheet
from downstream.uda.bench.spread import Spread, balance, spread
from downstream.uda.bench.study import Row, Study

PAPER_TABLES = {"T1": "3", "T2": "4", "T3": "5"}
_FOLDS = 5  # of the paper


def paper_sheets(study: Study) -> list[Sheet]:
    """Those of Tables 2 to 7 that the runs reach."""
    sheets = [table_2(study), *target_tables(study), *table_6(study), table_7(study)]
    return [sheet for sheet in sheets if sheet.rows]


def table_2(study: Study) -> Sheet:
    """Source labels alone, on the source's validation folds."""
    rows: list[Row] = []
    for variant in study.variants():
        if variant.method == BASELINE:
            reference = study.reference(variant)
            found = spread(_mious(source_scores(study.runs, variant)))
            rows.append(
                study.head(variant)
                | {
                    "n": found.n,
                    "mIoU": found,
                    "id": reference.id if reference else NONE,
                }
            )
    if rows and _has_paper_targets(study):
        rows += [_printed_head(row) | {"mIoU": _printed_spread(row)} for row in _kept(study, "2")]
    notes = (_SPREAD_NOTE, "Each row is what RDTs with its id are relative to.")
    return Sheet("table2", "Table 2: trained and validated on the source, percent", rows, notes)


def target_tables(study: Study) -> list[Sheet]:
    """Tables 3 to 5: one for each target, domain generalisation and adaptation."""
    sheets = []
    for target in study.targets:
        number = PAPER_TABLES.get(target, "")
        rows: list[Row] = []
        for variant in longest(study.variants()):
            scores = scores_on(study.runs, variant, target)
            if scores:
                rows.append(study.head(variant) | _miou_and_rdt(study, variant, scores))
        if number:
            rows += _printed_target_rows(study, number)
        title = f"{f'Table {number}' if number else 'As Table 3'}: {target}, mIoU and RDT, percent"
        name = f"table{number or f'3-{target}'}"
        sheets.append(Sheet(name, title, rows, (_SPREAD_NOTE, _RDT_NOTE)))
    return sheets


def table_6(study: Study) -> list[Sheet]:
    """Generalisation after short and long training, by initialisation and augmentation."""
    baselines = [v for v in study.variants() if v.method == BASELINE]
    groups: dict[tuple[str, ...], list[Variant]] = {}
    for variant in baselines:
        groups.setdefault((*variant.setting, variant.bn), []).append(variant)
    sheets = []
    for target in study.targets:
        rows: list[Row] = []
        for group in groups.values():
            if len(group) < 2:
                continue
            row = study.head(group[0])
            row["Model"] = str(row["Model"]).replace(f", {group[0].steps:,} steps", "")
            for variant in group:  # in order of their steps
                scores = scores_on(study.runs, variant, target)
                if scores:
                    cells = _miou_and_rdt(study, variant, scores)
                    row |= {"n": len(scores)} | {
                        f"{name}, {variant.steps:,} steps": cells[name] for name in ("mIoU", "RDT")
                    }
            rows.append(row)
        title = f"Table 6: {target} after short and long training, percent"
        sheets.append(Sheet(f"table6-{target}", title, rows, (_SPREAD_NOTE, _RDT_NOTE)))
        if rows and target == "T2":
            title = "Table 6 as printed: T2 after 100 and 200 epochs, percent"
            sheets.append(Sheet("table6-printed", title, _printed_table_6(study)))
    return sheets


def table_7(study: Study) -> Sheet:
    """Phase fractions as predicted and as labelled; every class but the first."""
    rows: list[Row] = []
    for target in study.targets:
        by_setting: dict[tuple[str, ...], Row] = {}
        for variant in longest(study.variants()):
            scores = scores_on(study.runs, variant, target)
            for name in _foreground(scores):
                row = by_setting.setdefault(
                    (name, *variant.setting),
                    {
                        "Target": target,
                        "class": name,
                        "Model": f"{variant.arch} {variant.network}",
                        "Pre-training": variant.init,
                        "Augmentation": variant.augmentation,
                        "true": _true_fraction(scores, name),
                    },
                )
                row[_column(study, variant)] = spread(
                    {place: score.phase_fraction[name] for place, score in scores.items()}
                )
        rows += list(by_setting.values())
        if target in PAPER_TABLES and rows:
            rows += _printed_fractions(study, target)
    note = "Predicted phase fractions of all test pixels together, mean ± standard deviation."
    return Sheet("table7", "Table 7: phase fractions, percent", rows, (note,))


def balance_sheet(study: Study) -> Sheet:
    """How evenly each variant errs to both sides (paper B, section 4.2)."""
    rows: list[Row] = []
    for target in study.targets:
        for variant in longest(study.variants()):
            scores = scores_on(study.runs, variant, target)
            for name in _foreground(scores):
                found = {
                    place: balance(score.confusion, score.classes.index(name))
                    for place, score in scores.items()
                }
                rows.append(
                    {"Target": target, "class": name}
                    | study.head(variant)
                    | {
                        "n": len(scores),
                        "false": spread({p: b.false for p, b in found.items()}),
                        "missed": spread({p: b.missed for p, b in found.items()}),
                        "skew": spread(
                            {p: b.skew for p, b in found.items() if not math.isnan(b.skew)}
                        ),
                    }
                )
    note = (
        "In percent of all pixels: falsely said to be of the class, and missed. Skew is (false - "
        "missed) / (false + missed): 0 is balanced, -100 means that all faults are misses."
    )
    return Sheet("balance", "Balance of the faults, percent", rows, (note,))


_SPREAD_NOTE = (
    "Mean ± standard deviation (of a sample) over folds and seeds, n runs; the CSV has the spread "
    "over folds and over seeds apart. Paper B's is over 5 folds."
)
_RDT_NOTE = (
    "RDT is relative to the mean source mIoU of the runs that the id in Table 2 names: those "
    "trained with source labels alone, alike in all else."
)


def _miou_and_rdt(
    study: Study, variant: Variant, scores: Mapping[tuple[int, int], DomainScore]
) -> Row:
    found = spread(_mious(scores))
    reference = study.reference(variant)
    if reference is None:
        return {"n": found.n, "mIoU": found, "RDT": NONE, "reference": NONE}
    rdt = Percent(relative_transferability(found.mean, reference.miou), signed=True)
    return {"n": found.n, "mIoU": found, "RDT": rdt, "reference": reference.id}


def _mious(scores: Mapping[tuple[int, int], DomainScore]) -> dict[tuple[int, int], float]:
    return {place: score.miou for place, score in scores.items()}


def _foreground(scores: Mapping[tuple[int, int], DomainScore]) -> tuple[str, ...]:
    return next((score.classes[1:] for score in scores.values()), ())


def _true_fraction(scores: Mapping[tuple[int, int], DomainScore], name: str) -> Entry:
    known = [s.phase_fraction_true for s in scores.values() if s.phase_fraction_true is not None]
    return Percent(float(np.mean([fractions[name] for fractions in known]))) if known else NONE


def _column(study: Study, variant: Variant) -> str:
    """The variant's name in a table whose rows tell all else; of lengths, it has the longest."""
    label = study.label(variant).replace(f" - {variant.arch} {variant.network}", "")
    return label.replace(f", {variant.steps:,} steps", "")


def _has_paper_targets(study: Study) -> bool:
    return any(target in PAPER_TABLES for target in study.targets)


def _kept(study: Study, table: str) -> list[Printed]:
    """The mIoUs of a printed table, of the networks that our runs have."""
    networks = {variant.network for variant in study.variants()}
    return [row for row in printed_cells(table, "miou") if row.network in networks]


def _printed_head(row: Printed) -> Row:
    kind = "DG" if row.method == BASELINE else "UDA"
    return {
        "Model": f"*paper B, {row.experiment}: {kind} - {row.arch} {row.network}*",
        "Pre-training": row.init,
        "Augmentation": row.augmentation,
        "n": _FOLDS,
    }


def _printed_spread(row: Printed) -> Spread:
    nan = float("nan")
    assert row.value is not None  # a score
    std = nan if row.std is None else row.std
    return Spread(_FOLDS, _FOLDS, 1, row.value, std, std, nan)


def _printed_rdt(row: Printed) -> Entry:
    for other in printed_cells(row.table, "rdt"):
        if (other.experiment, other.epochs) == (row.experiment, row.epochs) and other.value:
            return Percent(other.value, signed=True)
    return None


def _printed_target_rows(study: Study, table: str) -> list[Row]:
    return [
        _printed_head(row) | {"mIoU": _printed_spread(row), "RDT": _printed_rdt(row)}
        for row in _kept(study, table)
    ]


def _printed_table_6(study: Study) -> list[Row]:
    rows: dict[str, Row] = {}
    for cell in _kept(study, "6"):
        row = rows.setdefault(cell.experiment, _printed_head(cell))
        row |= {
            f"mIoU, {cell.epochs} epochs": _printed_spread(cell),
            f"RDT, {cell.epochs} epochs": _printed_rdt(cell),
        }
    return list(rows.values())


def _printed_fractions(study: Study, target: str) -> list[Row]:
    names: dict[str, Callable[[str], bool]] = {
        BASELINE: lambda column: column == "DG",
        "adaptsegnet": lambda column: column.startswith("UDA adaptsegnet"),
    }
    found = longest(study.variants())
    if not any(variant.network == "DeepLabV2" for variant in found):
        return []
    columns = [_column(study, variant) for variant in found]
    model = "*paper B: resnet101 DeepLabV2*"
    row: Row = {"Target": target, "class": "lath-bainite", "Model": model}
    for cell in printed_cells("7", "phase_fraction_true"):
        if cell.domain == target and cell.value is not None:
            row["true"] = Percent(cell.value)
    for cell in printed_cells("7", "phase_fraction"):
        if cell.domain == target:
            fits = names[cell.method]
            row[next((c for c in columns if fits(c)), cell.method)] = _printed_spread(cell)
    return [row]
