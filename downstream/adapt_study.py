"""Paper B's study of the runs in a folder: its Tables 2 to 7, gains in pairs, its figures.

python -m downstream.adapt_study ROOT [--out DIR]     ROOT: holds the run folders, as a grid makes
                                                      them, all of one study
python -m downstream.adapt_study ROOT --bagging       folds as one (mean probability); needs torch
python -m downstream.adapt_study ROOT --layer layer3.15   Figure 7: Grad-CAM at this module

Reads what downstream.adapt wrote and writes adapt_study.md, a CSV for each table, runs.csv,
references.json (which runs each RDT is relative to), scores.png, and figure4.png … of the targets'
test images. Runs that are not finished are counted; so it can be called while a grid is at work.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from downstream.bench.labels import add_label_flag, parse_labels
from downstream.uda.bench.findings import findings_sheets, printed_rdt_note
from downstream.uda.bench.gains import Gain, gains
from downstream.uda.bench.runs import (
    BASELINE,
    AdaptRun,
    Variant,
    mixed_settings,
    read_adapt_runs,
    repeated,
)
from downstream.uda.bench.sheet import Percent, Sheet, sheet_csv, sheet_page
from downstream.uda.bench.study import Study
from downstream.uda.bench.tables import balance_sheet, paper_sheets
from pretrain.atomic import write_atomically
from shards.cli import ArgumentParser, UserError, console, program

PAGE = "adapt_study.md"
REFERENCES = "references.json"


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        prog="python -m downstream.adapt_study",
        description="Compare methods of domain adaptation over many runs, as paper B does.",
    )
    parser.add_argument("root", type=Path, help="folder that holds the run folders")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results [ROOT]")
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="RUN",
        help="source_only run; with its other folds and seeds what all RDTs are relative to "
        "[of each network its own]",
    )
    add_label_flag(parser)
    parser.add_argument("--bagging", action="store_true", help="score the folds' mean probability")
    parser.add_argument("--layer", metavar="NAME", help="draw Figure 7 at this encoder module")
    parser.add_argument("--study", type=Path, metavar="FILE", help="the domains' YAML [the runs']")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of its images [the runs']")
    arguments = parser.parse_args(argv)
    runs = read_adapt_runs(arguments.root, parse_labels(arguments.label))
    reference = _fixed_reference(runs, arguments.reference)
    study = Study(runs, reference, arguments.study, arguments.data)
    found = gains(runs)
    out: Path = arguments.out or arguments.root
    out.mkdir(parents=True, exist_ok=True)
    sheets = study_sheets(study, found)
    if arguments.bagging:
        sheets += _bag(study)
    written = _write(out, study, sheets)
    written += _draw(out, study, found, arguments.layer)
    print("\n".join(study_page(study, sheets)))
    for name in written:
        print(out / name)


def study_sheets(study: Study, found: Sequence[Gain]) -> list[Sheet]:
    """All tables that the runs reach."""
    sheets = [*paper_sheets(study), *findings_sheets(study, found), balance_sheet(study)]
    return [sheet for sheet in sheets if sheet.rows]


def study_page(study: Study, sheets: Sequence[Sheet]) -> list[str]:
    """The study as lines of Markdown."""
    lines = [f"# Domain adaptation: {study.name}", "", f"{_count(study.runs)}."]
    for name, values in mixed_settings(study.runs).items():
        spelt = ", ".join(values)
        lines += ["", f"**Runs of one variant differ in {name} ({spelt}): their means mix it.**"]
    for alike in repeated(study.runs):
        *others, last = (run.folder.name for run in alike)
        said = f"{last} repeats variant, target, fold and seed of {', '.join(others)}"
        lines += ["", f"**{said}: it alone counts.**"]
    told_of = [(run.folder.name, f"failed: {run.failure}") for run in study.runs if run.failure]
    told_of += [(run.folder.name, warning) for run in study.runs for warning in run.warnings]
    lines += ["", *(f"- {name} {what}" for name, what in told_of)] if told_of else []
    told: set[str] = set()  # notes that tables share
    for sheet in sheets:
        new = tuple(note for note in sheet.notes if note not in told)
        told.update(new)
        lines += ["", *sheet_page(replace(sheet, notes=new))]
    if any(str(row.get("Model", "")).startswith("*paper B") for s in sheets for row in s.rows):
        lines += ["", "Rows in italics are printed in paper B, on its own micrographs, which are "]
        lines[-1] += f"not public. {printed_rdt_note()}"
    return lines


def _fixed_reference(runs: Sequence[AdaptRun], folder: Path | None) -> Variant | None:
    if folder is None:
        return None
    for run in runs:
        if folder.resolve() == run.folder.resolve() or str(folder) in (run.run_id, run.folder.name):
            if not run.finished or run.variant.method != BASELINE:
                state = run.variant.method if run.finished else "not finished"
                raise UserError(f"--reference {folder} is {state}; it takes a {BASELINE} run")
            return run.variant
    names = ", ".join(r.folder.name for r in runs if r.variant.method == BASELINE and r.finished)
    raise UserError(f"--reference {folder} is none of the runs; there are {names or 'none yet'}")


def _bag(study: Study) -> list[Sheet]:
    from downstream.uda.bench.bagging import bagging_sheet  # needs torch

    sheet = bagging_sheet(study)
    if not sheet.rows:
        console.print("no bagging: no variant has two folds of one seed with their weights")
    return [sheet] if sheet.rows else []


def _write(out: Path, study: Study, sheets: Sequence[Sheet]) -> list[str]:
    pages = {f"{sheet.name}.csv": sheet_csv(sheet) for sheet in sheets}
    pages["runs.csv"] = sheet_csv(_runs_sheet(study))
    pages[REFERENCES] = json.dumps(_references(study), indent=1) + "\n"
    pages[PAGE] = "\n".join(study_page(study, sheets)) + "\n"
    for name, text in pages.items():
        write_atomically(out / name, text.encode())
    return [PAGE, *(name for name in pages if name != PAGE)]


def _draw(out: Path, study: Study, found: Sequence[Gain], layer: str | None) -> list[str]:
    if not study.targets:
        return []
    try:
        from downstream.uda.bench.figures import draw_predictions, draw_scores
    except ImportError:
        console.print("no figures: matplotlib is not installed here", markup=False)
        return []
    draw_scores(study, found, out / "scores.png")
    written = ["scores.png", *draw_predictions(study, out)]
    if layer is not None:
        from downstream.uda.bench.attention import draw_attention  # needs torch

        draw_attention(study, layer, out / "figure7.png")
        written.append("figure7.png")
    return written


def _runs_sheet(study: Study) -> Sheet:
    rows = []
    for run in study.runs:
        row = {"run": run.folder.name, "run_id": run.run_id, **asdict(run.variant)}
        row |= {"target": run.config.target or "", "fold": run.config.fold, "seed": run.config.seed}
        row["source mIoU"] = Percent(run.source.miou) if run.source else None
        row |= {f"{name} mIoU": Percent(score.miou) for name, score in (run.targets or {}).items()}
        rows.append(row)
    return Sheet("runs", "Runs", rows)


def _references(study: Study) -> list[dict[str, object]]:
    found = {}
    for variant in study.variants():
        reference = study.reference(variant)
        if reference is not None:
            found[reference.id] = asdict(reference)
    return list(found.values())


def _count(runs: Sequence[AdaptRun]) -> str:
    finished = sum(run.finished for run in runs)
    failed = sum(bool(run.failure) for run in runs)
    plural = "s" * (len(runs) != 1)
    return f"{len(runs)} run{plural}: {finished} finished, of them {failed} failed"


if __name__ == "__main__":
    main()
