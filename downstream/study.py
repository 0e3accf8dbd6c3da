"""Paper A's study of the runs in a folder: its Tables 2 to 4, paired differences, its figures.

python -m downstream.study ROOT [--out DIR]      ROOT: holds the run folders, as a grid makes them

Reads what downstream.segment wrote and writes study.md, table2.csv to table4.csv, differences.csv,
runs.csv, scores.png, and figure3.png to figure5.png as far as the runs reach. A collapsed run
counts as failed, one without results as unfinished, one that never began is not known; so it can be
called while a grid is at work.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from downstream.bench.labels import add_label_flag, parse_labels
from downstream.bench.paired import Difference, differences
from downstream.bench.runs import Run, in_order, mixed_settings, read_runs, shared_settings
from downstream.bench.scores import METRICS
from downstream.bench.tables import (
    LAYOUTS,
    CsvRow,
    best_page,
    differences_page,
    runs_rows,
    table_page,
    table_rows,
)
from pretrain.atomic import write_atomically
from shards.cli import ArgumentParser, UserError, console, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        prog="python -m downstream.study",
        description="Compare initialisations over many segmentation runs, as paper A does.",
    )
    parser.add_argument("root", type=Path, help="folder that holds the run folders")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results [ROOT]")
    parser.add_argument(
        "--baseline", metavar="INIT", help="what the others are compared with [imagenet, or random]"
    )
    add_label_flag(parser)
    parser.add_argument("--data", type=Path, help="where the test images lie now, for the figures")
    arguments = parser.parse_args(argv)
    runs = read_runs(arguments.root, parse_labels(arguments.label))
    baseline = _baseline(runs, arguments.baseline)
    found = differences(runs, baseline)
    out = arguments.out or arguments.root
    out.mkdir(parents=True, exist_ok=True)
    written = _write_tables(out, runs, found, baseline) + _draw(out, runs, found, arguments.data)
    print(_count(runs))
    for name in written:
        print(out / name)


def study_page(runs: Sequence[Run], found: Sequence[Difference], baseline: str) -> str:
    """The study as a Markdown page."""
    lines = ["# Segmentation study", "", f"{_count(runs)}.", "", *_settings(runs), *_failures(runs)]
    for layout in LAYOUTS:
        for metric, title in METRICS.items():
            lines += [
                "",
                f"## Table {layout.number}: test {title} in percent, by {layout.rows}",
                "",
            ]
            lines += table_page(layout, runs, metric)
    decoders = sorted({run.decoder for run in runs})
    for decoder in decoders if len(decoders) > 1 else ():
        lines += ["", f"## Table 2 of {decoder} alone: test micro IoU in percent", ""]
        lines += table_page(LAYOUTS[0], [r for r in runs if r.decoder == decoder], "micro_iou")
    lines += [
        "",
        "Mean ± standard deviation (ddof 1) over n runs, collapsed ones included, as in the paper. "
        "Rows in italics are printed in NASA/TM-20210026119: other encoders, one run per cell, its "
        "standard deviation is over encoders and decoders and its budget not ours. Its IoU is the "
        "micro IoU of its code (over all pixels and classes; for EBC of the oxide alone). Tables "
        "3 and 4 are over all initialisations.",
        "",
        "## Best runs",
        "",
        *best_page(runs, baseline),
        "",
        "Error is 1 - micro IoU. By test is the paper's choice, and optimistic: the maximum of "
        "noisy scores; by validation is what a user could have done.",
        "",
        "## Paired differences",
        "",
        *(
            differences_page(found)
            if found
            else ["No two runs differ in the initialisation alone."]
        ),
    ]
    return "\n".join(lines) + "\n"


def _baseline(runs: Sequence[Run], wanted: str | None) -> str:
    inits = in_order(run.init for run in runs)
    if wanted is None:
        return next((init for init in ("imagenet", "random") if init in inits), inits[0])
    if wanted not in inits:
        raise UserError(f"no run has the init {wanted!r}; there are {', '.join(inits)}")
    return wanted


def _write_tables(
    out: Path, runs: Sequence[Run], found: Sequence[Difference], baseline: str
) -> list[str]:
    pages = {f"table{layout.number}.csv": table_rows(layout, runs) for layout in LAYOUTS}
    pages["differences.csv"] = [_difference_row(difference) for difference in found]
    pages["runs.csv"] = runs_rows(runs)
    for name, rows in pages.items():
        write_atomically(out / name, _csv_text(rows).encode())
    write_atomically(out / "study.md", study_page(runs, found, baseline).encode())
    return ["study.md", *pages]


def _draw(
    out: Path, runs: Sequence[Run], found: Sequence[Difference], data: Path | None
) -> list[str]:
    try:
        from downstream.bench.figures import draw_maps, draw_scores
    except ImportError:
        console.print("no figures: matplotlib is not installed here", markup=False)
        return []
    if not any(run.scored for run in runs):
        return []
    draw_scores(runs, found, out / "scores.png")
    return ["scores.png", *draw_maps(runs, out, data)]


def _count(runs: Sequence[Run]) -> str:
    finished = sum(run.finished for run in runs)
    failed = sum(bool(run.failure) for run in runs)
    return f"{len(runs)} run{'s' * (len(runs) != 1)}: {finished} finished, of them {failed} failed"


def _settings(runs: Sequence[Run]) -> list[str]:
    shared = ", ".join(f"{name} {value}" for name, value in shared_settings(runs).items())
    lines = [f"Settings of all runs other than the defaults: {shared or 'none'}."]
    for name, values in mixed_settings(runs).items():
        spelt = ", ".join(map(str, values))
        lines.append(f"**Runs of one experiment differ in {name} ({spelt}): their means mix it.**")
    return lines


def _failures(runs: Sequence[Run]) -> list[str]:
    lines = [f"- {run.folder.name} failed: {run.failure}" for run in runs if run.failure]
    untested = [run.folder.name for run in runs if run.finished and not run.scored]
    if untested:
        lines.append(f"- without test images, so in no table: {', '.join(untested)}")
    return ["", *lines] if lines else []


def _difference_row(difference: Difference) -> CsvRow:
    row = asdict(difference)
    return row | {"values": " ".join(f"{value:.6g}" for value in difference.values)}


def _csv_text(rows: Sequence[CsvRow]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _plain(value) for key, value in row.items()})
    return stream.getvalue()


def _plain(value: str | float) -> str | float:
    if isinstance(value, float):
        return "" if math.isnan(value) else float(f"{value:.6g}")
    return value


if __name__ == "__main__":
    main()
