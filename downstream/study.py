"""Compare segmentation runs as in paper A: its Tables 2 to 4, paired differences, a figure.

python -m downstream.study RUNS [--out DIR]      RUNS: a folder of run folders, such as a grid's

Reads the runs of downstream.segment and writes study.md, a CSV file for each table, runs.csv and
scores.png. A collapsed run counts as failed, one without results as unfinished, so it can be called
while a grid is running.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd

from downstream.studies.report import write_report
from downstream.studies.runs import describe_counts, describe_problems
from downstream.studies.segment_runs import in_order, mixed_budgets, read_runs, shared_settings
from downstream.studies.segment_tables import (
    InitDifference,
    init_differences,
    paper_a_tables,
    runs_table,
)
from micrograph.cli import UserError, console, program
from micrograph.report_tables import page
from micrograph.settings import Positional, load_config


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """Compare initialisations over many segmentation runs, as paper A does."""

    runs: Annotated[Path, Positional, "folder of run folders"]
    out: Annotated[Path | None, "folder for the results [RUNS]"] = None
    baseline: Annotated[str | None, "init to compare the others with [imagenet, or random]"] = None


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(StudyConfig, argv)
    runs = read_runs(config.runs)
    baseline = choose_baseline(runs, config.baseline)
    differences = init_differences(runs, baseline)
    tables = [t for t in paper_a_tables(runs, differences, baseline) if t.rows]
    text = page("Segmentation study", _introduction(runs), tables)
    out = config.out or config.runs
    written = write_report(out, {"study.md": text}, [*tables, runs_table(runs)])
    if runs.micro_iou.notna().any():
        written += _draw(out, runs, differences)
    print(describe_counts(runs))
    for name in written:
        print(out / name)


def choose_baseline(runs: pd.DataFrame, init: str | None) -> str:
    """`init`, or else imagenet, random, or the first. Raises `UserError` if no run has it."""
    inits = in_order(runs.init)
    if init is None:
        return next((name for name in ("imagenet", "random") if name in inits), inits[0])
    if init not in inits:
        raise UserError(f"no run has the init {init!r}; there are {', '.join(inits)}")
    return init


def _introduction(runs: pd.DataFrame) -> list[str]:
    shared = ", ".join(f"{name} {value}" for name, value in shared_settings(runs).items())
    lines = ["", f"{describe_counts(runs)}.", ""]
    lines += [f"Settings of all runs other than the defaults: {shared or 'none'}."]
    lines += describe_problems(runs, mixed_budgets(runs))
    untested = runs[runs.finished & runs.micro_iou.isna()].run
    if len(untested):
        lines += ["", f"Without test images, so in no table: {', '.join(untested)}."]
    return lines


def _draw(out: Path, runs: pd.DataFrame, differences: Sequence[InitDifference]) -> list[str]:
    try:
        from downstream.studies.segment_figures import draw_scores
    except ImportError:
        console.print("no figure: matplotlib is not installed here", markup=False)
        return []
    draw_scores(runs, differences, out / "scores.png")
    return ["scores.png"]


if __name__ == "__main__":
    main()
