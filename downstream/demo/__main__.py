"""Run the whole pipeline: micrographs, shards, encoder, two segmenters, a report.

    python -m downstream.demo [--corpus DIR]        (run by `make demo`)

Each stage runs one of the programs and prints its command first.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table

from downstream.demo.report import ARMS, SEEDS, DemoFolders, draw_report, mean_test_scores
from micrograph.cli import UserError, console, program
from micrograph.settings import load_config
from pretrain.cards.encoder_card import read_card


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Pre-train an encoder on micrographs and compare it with a random one in segmentation."""

    corpus: Annotated[
        Path | None, "folder with a folder of images per class [synthetic images]"
    ] = None
    out: Annotated[Path, "output folder; emptied first"] = Path("runs/demo")
    images_per_class: Annotated[int, "synthetic micrographs per class"] = 100
    epochs: Annotated[int, "epochs of pre-training"] = 14
    segment_epochs: Annotated[int, "epochs of fine-tuning, 20 steps each, per segmenter"] = 5


SYNTHETIC_SIZE = 160  # pixels


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(DemoConfig, argv)
    folders = DemoFolders(config.out, config.corpus)
    if not Path("configs/pretrain/demo.yaml").is_file():
        raise UserError(
            "the demo needs the project's configs/; run it in the project's root folder"
        )
    if config.corpus is not None and not config.corpus.is_dir():
        raise UserError(f"no such folder: {config.corpus}")
    _make_empty(config)
    for title, command in _stages(config, folders):
        _run(title, command)
    draw_report(folders)
    _print_table(folders)
    console.print(f"picture: {folders.report}")


def _make_empty(config: DemoConfig) -> None:
    """Empty the output folder, but only that of an earlier demo, and never the user's corpus."""
    marker = config.out / ".demo"
    if config.corpus is not None and config.corpus.resolve().is_relative_to(config.out.resolve()):
        raise UserError(
            f"{config.corpus} is inside {config.out}, which the demo empties; move it elsewhere"
        )
    if config.out.exists() and not marker.exists() and any(config.out.iterdir()):
        raise UserError(f"{config.out} is not empty and not from a demo; choose another --out")
    if config.out.exists():
        shutil.rmtree(config.out)
    config.out.mkdir(parents=True)
    marker.touch()


def _stages(config: DemoConfig, folders: DemoFolders) -> list[tuple[str, list[str]]]:
    python = [sys.executable, "-m"]
    synthetic = [*python, "shards.synthetic", "--out", str(folders.synthetic)]
    drawn = config.images_per_class if config.corpus is None else 1  # for the labelled images
    synthetic += ["--images-per-class", str(drawn), "--size", str(SYNTHETIC_SIZE)]
    write = [*python, "shards.write", "--source", str(folders.corpus), "--out", str(folders.shards)]
    write += ["--max-side", str(2 * SYNTHETIC_SIZE)]
    train = [str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes", "1"]
    train += ["--quiet", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    train += ["pretrain/train.py", "--config", "configs/pretrain/demo.yaml"]
    train += ["--shards", str(folders.shards), "--run-dir", str(folders.run)]
    train += ["--epochs", str(config.epochs)]
    stages = [
        ("draw synthetic micrographs", synthetic),
        ("turn micrographs into shards", write),
        ("check the shards", [*python, "shards.verify", str(folders.shards)]),
        ("pre-train an encoder", train),
        ("export the encoder", [*python, "pretrain.export", str(folders.run)]),
    ]
    for seed in SEEDS:
        for arm in ARMS:
            command = [*python, "downstream.segment", "--config", "configs/downstream/demo.yaml"]
            command += ["--data", str(folders.labelled), "--seed", str(seed)]
            command += ["--run-dir", str(folders.segmenter(arm, seed))]
            command += ["--max-epochs", str(config.segment_epochs)]
            if arm == "pre-trained":
                command += ["--init", str(folders.export)]
            stages.append((f"segment from {arm} weights, seed {seed}", command))
    return stages


def _run(title: str, command: list[str]) -> None:
    console.rule(title, align="left")
    console.print(shlex.join(command), style="dim", markup=False, soft_wrap=True)
    if subprocess.run(command).returncode != 0:
        raise UserError(f"the demo stopped at: {title}; see the error above")


def _print_table(folders: DemoFolders) -> None:
    card = read_card(folders.export)
    table = Table(title="One labelled image, segmentation of the test images", box=None)
    for heading in ("encoder", "test mIoU", "IoU (micro)", "per seed (mIoU)"):
        table.add_column(heading)
    for arm in ARMS:
        mious, micro = mean_test_scores(folders, arm)
        table.add_row(
            f"{card.arch}, {arm}",
            f"{sum(mious) / len(mious):.1%}",
            f"{micro:.1%}",
            ", ".join(f"{miou:.1%}" for miou in mious),
        )
    Console().print(table)
    console.print(
        f"the encoder classifies {len(card.classes)} classes with top-1 {card.metrics['top1']:.1%}"
    )


if __name__ == "__main__":
    main()
