"""Gathers what a grid's tasks measured: results.csv, results.md, and for encoders figure2.png.

    python -m launch.collect GRID [--out DIR]

Runs at chance level (not converged) are marked, and never counted as the best. A grid over (arch,
init) gets paper A's figure 2, with the accuracies that the paper published beside ours.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from launch.grid import load_grid
from launch.literature import imagenet_accuracy, in_order, micronet_accuracy
from launch.results import Result, read_result
from launch.selection import warn_of_changed_settings
from launch.state import format_counts, grid_statuses
from launch.tasks import Grid
from pretrain.atomic import write_atomically
from shards.cli import ArgumentParser, console, program

NOT_CONVERGED = "†"


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description="Gather what a grid's tasks measured.")
    parser.add_argument("grid", type=Path, help="YAML file of the grid")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the tables [ROOT]")
    arguments = parser.parse_args(argv)
    grid = load_grid(arguments.grid)
    out = arguments.out or grid.root
    out.mkdir(parents=True, exist_ok=True)
    statuses = grid_statuses(grid)
    warn_of_changed_settings(statuses)
    results = [read_result(status) for status in statuses]
    rows = [_row(result) for result in results]
    write_atomically(out / "results.csv", csv_text(rows).encode())
    write_atomically(out / "results.md", markdown(grid, results).encode())
    written = ["results.csv", "results.md"]
    if is_encoder_grid(grid):
        written += _draw(results, out)
    print(f"{grid.name}: {format_counts(result.status for result in results)}")
    for name in written:
        print(out / name)


def is_encoder_grid(grid: Grid) -> bool:
    """Whether the grid trains encoders over (arch, init), as paper A did."""
    return {task.program for task in grid.tasks} == {"pretrain.train"} and all(
        {"arch", "init"} <= set(task.settings) for task in grid.tasks
    )


Row = dict[str, str | float | None]


def _row(result: Result) -> Row:
    """A line of results.csv: what the task is, how it stands, what it and others measured."""
    status, task = result.status, result.status.task
    row: Row = {"task": task.name, "state": status.state, **task.point}
    row["converged"] = "" if result.converged is None else str(result.converged).lower()
    row |= result.metrics
    if task.program == "pretrain.train":
        arch, init = str(task.settings.get("arch")), str(task.settings.get("init", "random"))
        published = micronet_accuracy().get((arch, init))
        imagenet = imagenet_accuracy().get(arch)
        row["paper_top1"] = published.top1 if published else None
        row["imagenet_top1"] = imagenet.top1 if imagenet else None
    row["reason"] = status.detail if status.state in ("failed", "finished") else ""
    return row


def csv_text(rows: Sequence[Row]) -> str:
    """The rows as CSV, with every column that any of them has; blank where one has none."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if "reason" in columns:  # free text reads best at the end
        columns.append(columns.pop(columns.index("reason")))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _plain(value) for name, value in row.items()})
    return stream.getvalue()


def _plain(value: str | float | None) -> str | float:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def markdown(grid: Grid, results: Sequence[Result]) -> str:
    """The results as a Markdown page."""
    title = f"# {grid.name}\n\n{len(results)} tasks: {format_counts(r.status for r in results)}.\n"
    if is_encoder_grid(grid):
        return "\n".join([title, *_encoder_table(results)]) + "\n"
    return "\n".join([title, *_plain_table(results)]) + "\n"


def _encoder_table(results: Sequence[Result]) -> list[str]:
    """A line for each arch: ours and the paper's, from random weights and from ImageNet."""
    inits = in_order({str(r.status.task.settings["init"]) for r in results})
    by_key = {_key(r): r for r in results}
    paper, imagenet = micronet_accuracy(), imagenet_accuracy()
    heads = [f"{who}, {_short(init)}" for init in inits for who in ("ours", "paper A")]
    lines = _header(["arch", *heads, "ImageNet"])
    for arch in dict.fromkeys(str(r.status.task.settings["arch"]) for r in results):
        cells = [arch]
        for init in inits:
            cells.append(_our_cell(by_key.get((arch, init))))
            cells.append(_percent(paper[arch, init].top1) if (arch, init) in paper else "")
        cells.append(_percent(imagenet[arch].top1) if arch in imagenet else "")
        lines.append(_line(cells))
    sources = sorted({p.source for p in (*paper.values(), *imagenet.values())})
    notes = [
        "",
        "Top-1 on the validation images, of the best epoch. Paper A: NASA/TM-20210026119, whose "
        "corpus and validation images are others than ours unless yours is MicroNet itself.",
    ]
    if any(result.converged is False for result in results):
        notes += ["", f"{NOT_CONVERGED} not converged: at chance level, or one class only."]
    if any(r.status.state != "finished" for r in results):
        notes += ["", "In italics: not finished."]
    torchvision = [s for s in sources if s.startswith("torchvision")]
    others = [s for s in sources if not s.startswith("torchvision")]
    if torchvision:
        others.append(f"{' '.join(torchvision[0].split()[:2])} weight metadata")
    return [*lines, *notes, "", f"Published figures: {'; '.join(others)}."]


def _our_cell(result: Result | None) -> str:
    if result is None:
        return ""
    top1 = result.metrics.get("top1")
    if top1 is None:
        return result.status.state
    mark = f" {NOT_CONVERGED}" if result.converged is False else ""
    cell = f"{_percent(top1)}{mark}"
    return cell if result.status.state == "finished" else f"*{cell}*"


def _plain_table(results: Sequence[Result]) -> list[str]:
    """A line for each task, with every metric."""
    axes = list(dict.fromkeys(axis for r in results for axis in r.status.task.point))
    metrics = list(dict.fromkeys(name for r in results for name in r.metrics))
    lines = _header([*axes, "state", *metrics])
    for result in results:
        labels = [str(result.status.task.point.get(axis, "")) for axis in axes]
        values = [_metric(name, result.metrics.get(name)) for name in metrics]
        lines.append(_line([*labels, result.status.state, *values]))
    return lines


def _metric(name: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    if name.endswith(("step", "epoch")):
        return f"{value:.0f}"
    return f"{value:.2f}" if name.endswith(("hours", "loss")) else _percent(value)


def _key(result: Result) -> tuple[str, str]:
    settings = result.status.task.settings
    return str(settings["arch"]), str(settings["init"])


def _short(init: str) -> str:
    """`random`, `imagenet`, or the end of a path."""
    return Path(init).name


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _header(names: Iterable[str]) -> list[str]:
    names = list(names)
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _draw(results: Sequence[Result], out: Path) -> list[str]:
    try:
        from launch.figure import draw_figure
    except ImportError:
        console.print("no figure: matplotlib is not installed here", markup=False)
        return []
    draw_figure(results, out / "figure2.png")
    return ["figure2.png"]


if __name__ == "__main__":
    main()
