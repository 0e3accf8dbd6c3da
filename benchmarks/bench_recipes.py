"""What modern.yaml gains over paper A's recipe at equal epochs, batch and augmentation: two curves.

    python -m shards.write --source corpus --out data/shards --split-overlaps
    python benchmarks/bench_recipes.py --shards data/shards --runs runs/recipes --seeds 0 1

Paper A's rate of 0.1 is for batches of 1024, which a small corpus does not fill, so it is tried as
it is and in proportion to the batch. Goes on where it was stopped; draws RUNS/recipes.png.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from rich.console import Console
from rich.table import Table

from pretrain.runs.metrics_log import read_metrics
from pretrain.train import main as train

MODERN = Path(__file__).parents[1] / "configs" / "pretrain" / "modern.yaml"
# Name of the runs -> label, colour, and the flags that differ from the defaults.
RECIPES = {
    "modern": ("modern.yaml", "tab:orange", ["--config", str(MODERN)]),
    "paper-linear": ("paper A, lr 0.1 per 1024", "tab:blue", ["--lr-reference-batch-size", "1024"]),
    "paper": ("paper A, lr 0.1", "0.45", []),
}
DPI = 110


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, default=Path("data/shards"))
    parser.add_argument("--runs", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args(argv)
    for seed in arguments.seeds:
        for name, (_, _, flags) in RECIPES.items():
            common = {
                "arch": "resnet18",
                "shards": arguments.shards,
                "image-size": 96,
                "epochs": arguments.epochs,
                "patience": arguments.epochs,
                "batch-size": arguments.batch_size,
                "precision": "bf16",
                "threads": 1,
                "loader-threads": 1,
                "seed": seed,
                "run-dir": arguments.runs / f"{name}-{seed}",
            }
            train([*flags, *(word for key in common for word in (f"--{key}", f"{common[key]}"))])
    curves = {
        name: np.array(
            [
                [record["val_top1"] for record in read_metrics(arguments.runs / f"{name}-{seed}")]
                for seed in arguments.seeds
            ]
        )
        for name in RECIPES
    }
    _print(curves)
    _draw(curves, arguments.runs / "recipes.png")


def _print(curves: dict[str, np.ndarray]) -> None:
    table = Table(title="validation top-1, mean over seeds (each seed)")
    for heading in ("recipe", "best epoch", "last epoch", "mean of all epochs"):
        table.add_column(heading)
    for name, tops in curves.items():
        cells = [tops.max(1), tops[:, -1], tops.mean(1)]
        spelt = (f"{c.mean():.1%} ({', '.join(f'{value:.1%}' for value in c)})" for c in cells)
        table.add_row(RECIPES[name][0], *spelt)
    Console(width=120).print(table)


def _draw(curves: dict[str, np.ndarray], path: Path) -> None:
    figure = Figure(figsize=(6.4, 4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for name, tops in curves.items():
        label, colour, _ = RECIPES[name]
        epochs = np.arange(1, tops.shape[1] + 1)
        axes.plot(epochs, tops.T, color=colour, linewidth=0.8, alpha=0.45)
        axes.plot(epochs, tops.mean(0), color=colour, linewidth=2, label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation top-1")
    axes.set_ylim(0, 0.8)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", title="mean (thin: each seed)")
    figure.savefig(path)


if __name__ == "__main__":
    main()
