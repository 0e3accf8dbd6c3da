"""Paper A's Tables 2, 3 and 4 of our runs beside the printed rows, for Markdown and CSV."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from downstream.bench.paired import (
    ALL,
    BOOTSTRAP_SEED,
    CONFIDENCE,
    RESAMPLES,
    Difference,
    range_coverage,
)
from downstream.bench.published import DECODERS, Published, published_rows
from downstream.bench.runs import Run, in_order
from downstream.bench.scores import METRICS, Cell, Metric, best_run, cell, relative_error_reduction
from pretrain.archs import ARCHS

NONE = "-"  # where there is no number

CsvRow = dict[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Layout:
    """A table of the paper: what its rows are."""

    number: str
    rows: str  # what a row is, in the head
    key: Callable[[Run], str]
    order: Sequence[str]  # of the rows; others behind


LAYOUTS = (
    Layout("2", "initialisation", lambda run: run.init, ()),
    Layout("3", "decoder", lambda run: run.decoder, DECODERS),
    Layout("4", "encoder", lambda run: run.arch, tuple(ARCHS)),
)


def table_page(layout: Layout, runs: Sequence[Run], metric: Metric) -> list[str]:
    """A table in the paper's layout: a row for each init, decoder or encoder, then as printed."""
    experiments = in_order(run.experiment for run in runs)
    lines = _head([layout.rows, *experiments])
    names = _names(layout, runs)
    for name in names:
        cells = (cell(_cell_runs(layout, runs, name, e), metric) for e in experiments)
        lines.append(_line([f"**{name}**", *map(_spell_cell, cells)]))
    if metric == "micro_iou":
        for name, printed in published_rows(layout.number).items():
            found = [printed.get(experiment) for experiment in experiments]
            if any(found) and (layout.number == "2" or name in names):
                label = next(p for p in printed.values()).printed
                lines.append(_line([f"*paper A: {label}*", *map(_spell_published, found)]))
    return lines


def table_rows(layout: Layout, runs: Sequence[Run]) -> list[CsvRow]:
    """The same for a CSV: a row for each row of the table and metric, columns by experiment."""
    experiments = in_order(run.experiment for run in runs)
    rows: list[CsvRow] = []
    for metric in METRICS:
        for name in _names(layout, runs):
            row: CsvRow = {layout.rows: name, "source": "ours", "metric": metric}
            for experiment in experiments:
                ours = cell(_cell_runs(layout, runs, name, experiment), metric)
                row |= {f"{experiment} {k}": v for k, v in _csv_cell(ours).items()}
            rows.append(row)
    for name, printed in published_rows(layout.number).items():
        source = next(iter(printed.values())).source
        row = {layout.rows: name, "source": source, "metric": "micro_iou"}
        for experiment in experiments:
            if experiment in printed:
                row[f"{experiment} mean"] = printed[experiment].iou
                row[f"{experiment} std"] = printed[experiment].std or ""
        rows.append(row)
    return rows


def best_page(runs: Sequence[Run], baseline: str) -> list[str]:
    """The best run of each experiment and init, chosen by test and by validation; error reduced."""
    head = ["experiment", "initialisation", "best by test", "test IoU", "best by validation"]
    lines = _head([*head, "test IoU", f"error less than {baseline}'s", "by validation"])
    printed = published_rows("best")
    for experiment in in_order(run.experiment for run in runs):
        of_experiment = [run for run in runs if run.experiment == experiment]
        for init in in_order(run.init for run in of_experiment):
            cells = [experiment, init]
            reductions = []
            of_init = [run for run in of_experiment if run.init == init]
            of_baseline = [run for run in of_experiment if run.init == baseline]
            for by_test in (True, False):
                best = best_run(of_init, by_test=by_test)
                base = best_run(of_baseline, by_test=by_test)
                cells += [_spell_run(best, of_init), _percent(best.micro_iou) if best else NONE]
                reductions.append("" if init == baseline else _reduction(base, best))
            lines.append(_line([*cells, *reductions]))
        lines += [
            _line(
                [
                    *(f"*{experiment}*", f"*paper A: {row.printed}*"),
                    "",
                    _spell_published(row),
                    "",
                    "",
                    _printed_reduction(printed, experiment, name),
                    "",
                ]
            )
            for name, rows in printed.items()
            if (row := rows.get(experiment))
        ]
    return lines


def differences_page(found: Sequence[Difference]) -> list[str]:
    """The paired differences in points of micro IoU, and what their intervals are worth."""
    level = f"{CONFIDENCE:.0%}"
    lines = _head(
        [
            "experiment",
            "difference",
            "pairs",
            "of them better",
            "failed",
            "mean",
            f"{level} bootstrap",
            f"{level} Student",
            "images",
            f"mean over images, {level} bootstrap",
        ]
    )
    for d in found:
        lines.append(
            _line(
                [
                    *(d.experiment, f"{d.init} - {d.baseline}", str(d.pairs), f"{d.wins}"),
                    *(str(d.failed), f"**{_points(d.mean)}**", _interval(d.low, d.high)),
                    *(_interval(d.t_low, d.t_high), str(d.images)),
                    f"{_points(d.image_mean)} {_interval(d.image_low, d.image_high)}",
                ]
            )
        )
    lines += [
        "",
        "Points of test micro IoU (0.01). A pair differs in the initialisation alone. Bootstrap: "
        f"percentiles of {RESAMPLES:,} resamples, seed {BOOTSTRAP_SEED}, over pairs; the last "
        "column over pairs and test images at once, as both are clusters (pigeonhole bootstrap; "
        "each image's own IoU, so its mean differs from that of all pixels together).",
    ]
    few = sorted({d.pairs for d in found if d.experiment != ALL and 1 < d.pairs <= 5})
    for pairs in few:
        what = (
            "is just the range of the differences" if pairs <= 3 else "hardly exceeds their range"
        )
        lines.append(
            f"With {pairs} pairs the bootstrap interval {what}, and that holds the median "
            f"difference in {range_coverage(pairs):.0%} of studies, not in {level}: read Student's "
            "beside it, and neither as a proof."
        )
    if any(d.experiment == ALL for d in found):
        lines.append(
            "Over all experiments, their means count equally; experiments that share test images "
            "(Super-1 to -3; EBC-1 to -3) are not independent, so that interval is too narrow."
        )
    if any(d.pairs == 1 for d in found):
        lines.append("One pair has no interval.")
    return lines


def runs_rows(runs: Iterable[Run]) -> list[CsvRow]:
    """A row for each run."""
    return [
        {
            "run": run.folder.name,
            **{key: getattr(run, key) for key in ("experiment", "decoder", "arch", "init", "seed")},
            "state": "unfinished" if not run.finished else "failed" if run.failure else "converged",
            "micro_iou": "" if run.micro_iou is None else run.micro_iou,
            "miou": "" if run.miou is None else run.miou,
            "val_micro_iou": "" if run.val_micro_iou is None else run.val_micro_iou,
            "failure": run.failure,
        }
        for run in runs
    ]


def _names(layout: Layout, runs: Sequence[Run]) -> list[str]:
    names = {layout.key(run) for run in runs}
    if not layout.order:
        return in_order(names)
    return [n for n in layout.order if n in names] + sorted(names - set(layout.order))


def _cell_runs(layout: Layout, runs: Sequence[Run], name: str, experiment: str) -> list[Run]:
    return [run for run in runs if layout.key(run) == name and run.experiment == experiment]


def _csv_cell(ours: Cell) -> CsvRow:
    return {
        "mean": ours.mean,
        "std": ours.std,
        "n": ours.n,
        "failed": ours.failed,
        "unfinished": ours.unfinished,
        "median": ours.median,
        "converged mean": ours.converged_mean,
        "converged std": ours.converged_std,
    }


def _spell_cell(ours: Cell) -> str:
    waiting = f", {ours.unfinished} unfinished" if ours.unfinished else ""
    if not ours.n:
        return waiting.removeprefix(", ") or NONE
    spread = f" ± {100 * ours.std:.1f}" if ours.n > 1 else ""
    failed = f", {ours.failed} failed" if ours.failed else ""
    converged = f"; {100 * ours.converged_mean:.1f} without" if 0 < ours.failed < ours.n else ""
    return f"{100 * ours.mean:.1f}{spread} (n {ours.n}{failed}{converged}{waiting})"


def _spell_published(printed: Published | None) -> str:
    if printed is None:
        return ""
    spread = "" if printed.std is None else f" ± {100 * printed.std:.1f}"
    return f"*{100 * printed.iou:.1f}{spread}*"


def _spell_run(run: Run | None, among: Sequence[Run]) -> str:
    if run is None:
        return "none converged" if any(other.scored for other in among) else "none finished"
    return f"{run.decoder}, {run.arch}, seed {run.seed}"


def _reduction(base: Run | None, best: Run | None) -> str:
    if base is None or best is None or base.micro_iou is None or best.micro_iou is None:
        return NONE
    return _percent(relative_error_reduction(base.micro_iou, best.micro_iou))


def _printed_reduction(
    printed: Mapping[str, Mapping[str, Published]], experiment: str, name: str
) -> str:
    if name == "imagenet":
        return ""
    base, best = printed["imagenet"][experiment], printed[name][experiment]
    return f"*{_percent(relative_error_reduction(base.iou, best.iou))}, of Imagenet's*"


def _percent(share: float | None) -> str:
    return NONE if share is None or share != share else f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return NONE if share != share else f"{100 * share:+.1f}"


def _interval(low: float, high: float) -> str:
    return NONE if low != low else f"[{_points(low)}, {_points(high)}]"


def _head(names: Iterable[str]) -> list[str]:
    names = list(names)
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
