"""Collect what a grid's tasks measured: results.csv, results.md, and for encoders figure2.png.

    python -m launch.collect GRID [--out DIR]

Runs at chance level (not converged) are marked. A grid over (arch, init) gets paper A's figure 2,
with the accuracies that the paper published beside ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

from launch.results.results import imagenet_top1, micronet_top1, order_inits, read_results
from launch.state.selection import warn_of_changed_settings
from launch.state.state import format_counts, grid_statuses
from launch.tasks.grid import load_grid
from launch.tasks.task_list import Grid
from micrograph.atomic import write_atomically
from micrograph.cli import console, program
from micrograph.literature_values import read_published
from micrograph.report_tables import Table, format_percent, page, to_csv
from micrograph.settings import Positional, load_config
from pretrain.registry.nasa_models import micronet_models

NOT_CONVERGED = "†"


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectConfig:
    """Collect what a grid's tasks measured."""

    grid: Annotated[Path, Positional, "YAML file of the grid"]
    out: Annotated[Path | None, "folder for the tables [the grid's root]"] = None


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(CollectConfig, argv)
    grid = load_grid(config.grid)
    out = config.out or grid.root
    out.mkdir(parents=True, exist_ok=True)
    statuses = grid_statuses(grid)
    warn_of_changed_settings(statuses)
    counts = format_counts(statuses)
    results = read_results(statuses)
    if is_encoder_grid(grid):
        settings = [task.settings for task in grid.tasks]
        encoders = results.assign(**{k: [str(s[k]) for s in settings] for k in ("arch", "init")})
        table = encoder_table(encoders)
    else:
        table = task_table(grid, results)
    text = page(grid.name, ["", f"{len(statuses)} tasks: {counts}."], [table])
    rows = results.assign(converged=results.converged.map({True: "true", False: "false"}))
    write_atomically(out / "results.csv", to_csv(rows.to_dict("records")).encode())
    write_atomically(out / "results.md", text.encode())
    written = ["results.csv", "results.md"]
    if is_encoder_grid(grid):
        written += _draw(encoders, out)
    print(f"{grid.name}: {counts}")
    for name in written:
        print(out / name)


def is_encoder_grid(grid: Grid) -> bool:
    """Whether the grid trains encoders over (arch, init), as paper A did."""
    return {task.program for task in grid.tasks} == {"pretrain.train"} and all(
        {"arch", "init"} <= set(task.settings) for task in grid.tasks
    )


def encoder_table(results: pd.DataFrame) -> Table:
    """A row for each arch: our top-1 and the paper's, from each initialisation."""
    paper, imagenet = micronet_top1(), imagenet_top1()
    ours = {(task["arch"], task["init"]): task for task in results.to_dict("records")}
    rows = []
    for arch in results.arch.unique():
        row: dict[str, object] = {"arch": arch}
        for init in order_inits(results.init):
            row[f"ours, {Path(init).name}"] = _top1_cell(ours.get((arch, init)))
            row[f"paper A, {Path(init).name}"] = _percent(paper.get((arch, init)))
        rows.append(row | {"ImageNet": _percent(imagenet.get(arch))})
    # torchvision names each of its weights; its version says enough.
    names = [*(model.source for model in micronet_models()), *read_published("imagenet").source]
    sources = {" ".join(n.split(" ")[:2]) if n.startswith("torchvision") else n for n in names}
    notes = (
        "Top-1 on the validation images, of the best epoch. Paper A: NASA/TM-20210026119, whose "
        "corpus and validation images differ from ours unless yours is MicroNet itself.",
        f"{NOT_CONVERGED} not converged: at chance level, or one class only. In italics: not "
        "finished.",
        f"Published values: {'; '.join(sorted(sources))}.",
    )
    return Table("results", "Top-1", rows, notes)


def task_table(grid: Grid, results: pd.DataFrame) -> Table:
    """A row for each task, with every metric."""
    axes = [axis for axis in grid.axes if axis in results]
    metrics = results.columns.drop(["task", "converged", "reason", "state", *axes])
    rows = [
        {name: task[name] for name in (*axes, "state")}
        | {name: _metric(name, task[name]) for name in metrics}
        for task in results.to_dict("records")
    ]
    return Table("results", "Tasks", rows)


def _top1_cell(task: Mapping[Any, Any] | None) -> str:
    if task is None:
        return ""
    top1 = _percent(task.get("top1"))
    if not top1:
        return str(task["state"])
    cell = f"{top1} {NOT_CONVERGED}" if task["converged"] is False else top1
    return cell if task["state"] == "finished" else f"*{cell}*"


def _metric(name: str, value: float | None) -> str:
    if pd.isna(value):
        return ""
    if name.endswith(("step", "epoch")):
        return f"{value:.0f}"
    return f"{value:.2f}" if name.endswith(("hours", "loss")) else _percent(value)


def _percent(value: float | None) -> str:
    return "" if pd.isna(value) else f"{format_percent(float(value))} %"


def _draw(results: pd.DataFrame, out: Path) -> list[str]:
    try:
        from launch.results.figure import draw_figure
    except ImportError:
        console.print("no figure: matplotlib is not installed here", markup=False)
        return []
    draw_figure(results, out / "figure2.png")
    return ["figure2.png"]


if __name__ == "__main__":
    main()
