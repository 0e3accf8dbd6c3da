"""Compare adaptation runs as in paper B: its Tables 2 to 7, paired gains, its figures.

python -m downstream.adapt_study RUNS [--out DIR]     RUNS: a folder of run folders, such as a
                                                      grid's, all of one domain study
python -m downstream.adapt_study RUNS --bagging       also score ensembles of folds; needs torch

Reads the runs of downstream.adapt and writes adapt_study.md, a CSV file for each table, runs.csv,
references.json (the runs that each RDT is relative to), scores.png, and figure4.png … of the test
images of the targets. Unfinished runs are counted, so it can be called while a grid is running.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from downstream.domains.study import SOURCE, DomainStudy, read_domain_study
from downstream.studies.adapt_findings import Gain, findings_tables, gains
from downstream.studies.adapt_runs import AdaptRuns, read_adapt_runs
from downstream.studies.adapt_tables import paper_b_tables
from downstream.studies.report import write_report
from downstream.studies.runs import describe_counts, describe_problems
from micrograph.cli import UserError, console, program
from micrograph.report_tables import Percent, Table, named_rows, page
from micrograph.settings import Positional, load_config


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptStudyConfig:
    """Compare methods of domain adaptation over many runs, as paper B does."""

    runs: Annotated[Path, Positional, "folder of run folders"]
    out: Annotated[Path | None, "folder for the results [RUNS]"] = None
    bagging: Annotated[bool, "score the mean probability of the folds; needs torch"] = False
    study: Annotated[Path | None, "study file of the domains [as in the runs]"] = None
    data: Annotated[Path | None, "data folder of the study [as in the runs]"] = None


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(AdaptStudyConfig, argv)
    runs = read_adapt_runs(config.runs)
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
    """A row for each run, with its mIoU on each domain."""
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
        repeated = f"{last} repeats variant, target, fold and seed of {', '.join(others)}"
        lines += ["", f"**{repeated}: only {last} counts.**"]
    warned = runs.runs[runs.runs.warnings.map(len) > 0]
    lines += ["", *(f"- {r.run} {w}" for r in named_rows(warned) for w in r.warnings)]
    return lines


def _domains(runs: AdaptRuns, config: AdaptStudyConfig) -> DomainStudy:
    """The domain study, to read its images. Raises `UserError` if it is missing."""
    trained = runs.runs.config.iloc[0]
    return read_domain_study(config.study or trained.study, config.data or trained.data)


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
