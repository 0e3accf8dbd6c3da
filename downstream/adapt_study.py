"""Paper B's study of the runs in a folder: its Tables 2 to 7, gains in pairs, its figures.

python -m downstream.adapt_study RUNS [--out DIR]     RUNS: holds the run folders, as a grid makes
                                                      them, all of one domain study
python -m downstream.adapt_study RUNS --bagging       folds as one (mean probability); needs torch

Reads what downstream.adapt wrote and writes adapt_study.md, a CSV for each table, runs.csv,
references.json (which runs each RDT is relative to), scores.png, and figure4.png … of the targets'
test images. Unfinished runs are counted; so it can run while a grid is still at work.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from downstream.domains.study import SOURCE, DomainStudy, read_domain_study
from downstream.studies.adapt_findings import Gain, findings_tables, gains
from downstream.studies.adapt_runs import BASELINE, AdaptRuns, Variant, read_adapt_runs
from downstream.studies.adapt_tables import paper_b_tables
from downstream.studies.report import write_report
from downstream.studies.runs import describe_counts, describe_problems, parse_labels
from micrograph.cli import UserError, console, program
from micrograph.report_tables import Percent, Table, named_rows, page
from micrograph.settings import Positional, load_config


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptStudyConfig:
    """Compare methods of domain adaptation over many runs, as paper B does."""

    runs: Annotated[Path, Positional, "folder that holds the run folders"]
    out: Annotated[Path | None, "folder for the results [RUNS]"] = None
    reference: Annotated[
        Path | None,
        "source_only run; all RDTs are relative to it with its other folds and seeds [of each "
        "network its own]",
    ] = None
    label: Annotated[
        tuple[str, ...], "INIT=NAME: runs/real/export=micrographs names that init"
    ] = ()
    bagging: Annotated[bool, "score the folds' mean probability; needs torch"] = False
    study: Annotated[Path | None, "YAML file of the domains [the runs']"] = None
    data: Annotated[Path | None, "folder of their images [the runs']"] = None


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(AdaptStudyConfig, argv)
    runs = read_adapt_runs(config.runs, parse_labels(config.label))
    if config.reference:
        runs = replace(runs, fixed_reference=_reference_variant(runs, config.reference))
    found = gains(runs)
    tables = [*paper_b_tables(runs), *findings_tables(runs, found)]
    if config.bagging:
        tables += _bag(runs, _domains(runs, config))
    text = page(f"Domain adaptation: {runs.name}", _introduction(runs), tables)
    texts = {
        "adapt_study.md": text,
        "references.json": json.dumps(_references(runs), indent=1) + "\n",
    }
    out = config.out or config.runs
    written = write_report(out, texts, [*tables, runs_table(runs)])
    written += _draw(runs, found, out, config)
    print(text)
    for name in written:
        print(out / name)


def runs_table(runs: AdaptRuns) -> Table:
    """A row for each run, with its mIoU on each domain that it counts on."""
    scores = {(score.run, score.domain): Percent(score.miou) for score in named_rows(runs.scores)}
    rows = [
        {"run": run.run, "run_id": run.run_id, **asdict(run.variant), "target": run.made_for}
        | {"fold": run.fold, "seed": run.seed, "seconds_per_step": run.seconds_per_step}
        | {"warnings": len(run.warnings)}
        | {f"{name} mIoU": scores.get((run.run, name)) for name in (SOURCE, *runs.targets)}
        for run in named_rows(runs.runs)
    ]
    return Table("runs", "Runs", rows)


def _introduction(runs: AdaptRuns) -> list[str]:
    lines = ["", f"{describe_counts(runs.runs)}."]
    lines += describe_problems(runs.runs, runs.mixed_settings())
    for *others, last in runs.repeated():
        alike = f"{last} repeats variant, target, fold and seed of {', '.join(others)}"
        lines += ["", f"**{alike}: it alone counts.**"]
    warned = runs.runs[runs.runs.warnings.map(len) > 0]
    lines += ["", *(f"- {r.run} {w}" for r in named_rows(warned) for w in r.warnings)]
    return lines


def _domains(runs: AdaptRuns, config: AdaptStudyConfig) -> DomainStudy:
    """The domain study, to open its images. Raises `UserError` where it is missing."""
    trained = runs.runs.config.iloc[0]
    return read_domain_study(config.study or trained.study, config.data or trained.data)


def _reference_variant(runs: AdaptRuns, folder: Path) -> Variant:
    for run in named_rows(runs.runs):
        if folder.resolve() == run.folder.resolve() or str(folder) in (run.run_id, run.run):
            variant: Variant = run.variant
            if not run.finished or variant.method != BASELINE:
                state = variant.method if run.finished else "not finished"
                raise UserError(f"--reference {folder} is {state}; it takes a {BASELINE} run")
            return variant
    names = sorted(set(runs.scores[runs.scores.variant.map(lambda v: v.method == BASELINE)].run))
    listed = ", ".join(names) or "none yet"
    raise UserError(f"--reference {folder} is none of the runs; there are {listed}")


def _references(runs: AdaptRuns) -> list[dict[str, object]]:
    found = (runs.reference(variant) for variant in runs.variants())
    return list({ref.id: asdict(ref) for ref in found if ref is not None}.values())


def _bag(runs: AdaptRuns, study: DomainStudy) -> list[Table]:
    from downstream.studies.bagging import bagging_table  # needs torch

    table = bagging_table(runs, study)
    if not table.rows:
        console.print("no bagging: no variant has two folds of one seed")
    return [table] if table.rows else []


def _draw(runs: AdaptRuns, found: Sequence[Gain], out: Path, config: AdaptStudyConfig) -> list[str]:
    if not runs.targets:
        return []
    try:
        from downstream.studies.adapt_figures import draw_predictions, draw_scores
    except ImportError:
        console.print("no figures: matplotlib is not installed here", markup=False)
        return []
    draw_scores(runs, found, out / "scores.png")
    try:
        study = _domains(runs, config)
    except UserError as error:
        console.print(f"no figure of the targets: {error}", markup=False, soft_wrap=True)
        return ["scores.png"]
    return ["scores.png", *draw_predictions(runs, study, out)]


if __name__ == "__main__":
    main()
