"""The study: paper A's numbers checked on its own print, ours on runs with scores set by hand."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from downstream.bench.paired import (
    bootstrap_crossed,
    bootstrap_mean,
    differences,
    pair_runs,
    range_coverage,
)
from downstream.bench.published import EXPERIMENTS, published_rows
from downstream.bench.runs import Run, init_label, mixed_settings, read_runs, shared_settings
from downstream.bench.scores import best_run, cell, relative_error_reduction
from downstream.config import SegmentConfig
from downstream.seg.run_folder import RunPaths, write_json
from downstream.segment import segment
from downstream.study import main
from shards.cli import UserError
from shards.settings import dump_config

IMAGES = ("a", "b")


def save_run(
    root: Path,
    init: str,
    seed: int,
    iou: float | None,
    *,
    per_image: tuple[float, float] | None = None,
    number: int = 1,
    collapse: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """A run folder on Super-`number` with these scores; without `iou`, one that is not finished."""
    decoder = (settings or {}).get("decoder", "Unet")
    paths = RunPaths(root / f"super{number}.{decoder}.{Path(init).name}.{seed}")
    paths.folder.mkdir(parents=True)
    config = SegmentConfig(
        data=Path("benchmark"),
        train=(f"Super{number}/train",),
        test=(f"Super{number}/test",),
        init=init,
        seed=seed,
        run_dir=paths.folder,
        **(settings or {}),
    )
    paths.config.write_text(dump_config(config))
    if iou is None:
        return paths.folder
    images = per_image or (iou, iou)
    write_json(
        paths.results,
        {
            "arch": "resnet18",
            "data_sha256": f"of super {number}",
            "converged": not collapse,
            "collapse": collapse,
            "val": {"micro_iou": iou - 0.01},
            "test": {
                "micro_iou": iou,
                "miou": iou / 2,
                "images": [
                    {"name": n, "micro_iou": v} for n, v in zip(IMAGES, images, strict=True)
                ],
            },
        },
    )
    return paths.folder


def scored(root: Path, **inits: tuple[float, ...]) -> list[Run]:
    for init, values in inits.items():
        for seed, value in enumerate(values):
            save_run(root, init, seed, value)
    return read_runs(root)


@pytest.mark.parametrize(("experiment", "percent"), [("Super-3", 72.2), ("EBC-3", 14.3)])
def test_the_relative_error_reduction_is_the_papers(experiment: str, percent: float) -> None:
    best = published_rows("best")
    imagenet, micronet = (best[init][experiment].iou for init in ("imagenet", "micronet"))
    assert round(100 * relative_error_reduction(imagenet, micronet), 1) == percent


def test_the_printed_tables_are_whole() -> None:
    # Table 4: 21 encoders for Super and EBC-3, 33 for EBC-1 and -2. Table 3: 7 decoders for EBC-1.
    def count(table: str, experiment: str) -> int:
        return sum(experiment in row for row in published_rows(table).values())

    assert [count("4", e) for e in ("Super-1", "EBC-1", "EBC-2", "EBC-3")] == [21, 33, 33, 21]
    assert [count("3", e) for e in ("Super-4", "EBC-1", "EBC-2", "EBC-3")] == [3, 7, 4, 2]
    assert published_rows("2")["image-micronet"]["Super-3"].iou == pytest.approx(0.70)
    assert published_rows("4")["xception"]["EBC-3"].std == pytest.approx(0.097)


def test_the_printed_tables_agree_but_for_super_3() -> None:
    # All three average the same runs by other keys, so their plain means agree as far as the cells
    # are balanced: a slip of the pen in the CSV shows. In print Super-3 differs by 2 points.
    def mean(table: str, experiment: str) -> float:
        rows = published_rows(table).values()
        return float(np.mean([row[experiment].iou for row in rows if experiment in row]))

    for experiment in EXPERIMENTS:
        spread = np.ptp([mean(table, experiment) for table in ("2", "3", "4")])
        assert spread < 0.005 or (experiment == "Super-3" and 0.02 < spread < 0.025)


def test_a_cell_counts_failed_and_unfinished_runs(tmp_path: Path) -> None:
    for seed, value in enumerate((0.8, 0.6)):
        save_run(tmp_path, "random", seed, value)
    save_run(tmp_path, "random", 2, 0.1, collapse="it predicts matrix everywhere")
    save_run(tmp_path, "random", 3, None)
    found = cell(read_runs(tmp_path), "micro_iou")
    assert (found.n, found.failed, found.unfinished) == (3, 1, 1)
    assert found.mean == pytest.approx(0.5)
    assert found.std == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 2))
    assert found.converged_mean == pytest.approx(0.7)
    assert cell(read_runs(tmp_path), "miou").mean == pytest.approx(0.25)


def test_a_collapsed_run_is_never_the_best(tmp_path: Path) -> None:
    save_run(tmp_path, "random", 0, 0.5)
    save_run(tmp_path, "random", 1, 0.9, collapse="diverged")
    best = best_run(read_runs(tmp_path), by_test=True)
    assert best is not None and best.seed == 0


def test_pairs_differ_in_the_initialisation_alone(tmp_path: Path) -> None:
    save_run(tmp_path, "random", 0, 0.5)
    save_run(tmp_path, "imagenet", 0, 0.6)
    save_run(tmp_path, "random", 1, 0.5)  # no partner of seed 1
    save_run(tmp_path, "random", 2, 0.5)
    save_run(tmp_path, "imagenet", 2, 0.9, settings={"max_epochs": 7})  # another budget
    pairs = pair_runs(read_runs(tmp_path), "random", "imagenet")
    assert [(a.seed, b.seed) for a, b in pairs] == [(0, 0)]


def test_a_mixed_budget_is_told(tmp_path: Path) -> None:
    save_run(tmp_path, "random", 0, 0.5, settings={"max_epochs": 7, "crop_size": 256})
    save_run(tmp_path, "random", 1, 0.5, settings={"max_epochs": 9, "crop_size": 256})
    runs = read_runs(tmp_path)
    assert mixed_settings(runs) == {"max_epochs": [7, 9]}
    assert shared_settings(runs) == {"crop_size": 256}
    main([str(tmp_path)])
    assert "differ in max_epochs (7, 9)" in (tmp_path / "study.md").read_text()


def test_the_difference_of_three_pairs_has_their_range_as_interval(tmp_path: Path) -> None:
    runs = scored(tmp_path, random=(0.5, 0.6, 0.7), imagenet=(0.6, 0.8, 0.7))
    (found,) = differences(runs, "random")
    assert (found.pairs, found.wins, found.images) == (3, 2, 2)
    assert found.values == pytest.approx((0.1, 0.2, 0.0))
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.0, 0.2))
    # Student: 0.1 -+ 4.303 * 0.1 / sqrt(3)
    assert (found.t_low, found.t_high) == pytest.approx((-0.1484, 0.3484), abs=1e-4)
    assert range_coverage(3) == 0.75


def test_experiments_count_equally_in_the_difference_over_all(tmp_path: Path) -> None:
    for seed in range(2):
        save_run(tmp_path, "random", seed, 0.5)
        save_run(tmp_path, "imagenet", seed, 0.6)
    for seed in range(4):
        save_run(tmp_path, "random", seed, 0.5, number=2)
        save_run(tmp_path, "imagenet", seed, 0.8, number=2)
    *single, over_all = differences(read_runs(tmp_path), "random")
    assert [d.experiment for d in single] == ["Super-1", "Super-2"]
    assert over_all.mean == pytest.approx(0.2)
    assert over_all.pairs == 6


def test_the_bootstrap_has_the_width_that_theory_says() -> None:
    values = np.random.default_rng(1).normal(size=400)
    low, high = bootstrap_mean([values])
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def test_images_that_move_together_widen_the_interval() -> None:
    # All variance is between images: 8 runs of the same 4 images are 4 values, not 32.
    by_image = np.tile(np.array([0.0, 0.1, 0.2, 0.3]), (8, 1))
    low, high = bootstrap_crossed([by_image])
    assert (low, high) == pytest.approx(bootstrap_mean([by_image[0]]), abs=0.02)
    apart = bootstrap_mean([by_image.reshape(-1)])
    assert high - low > 2 * (apart[1] - apart[0])


@pytest.mark.parametrize(
    ("init", "label"),
    [
        ("random", "random"),
        ("resnet18.micronet@2", "micronet"),
        ("runs/real/export", "real"),
        ("runs/resnet18.random/export", "trained from random"),
        ("encoders/resnet18.own/encoder.safetensors", "own"),
    ],
)
def test_inits_get_short_names(init: str, label: str) -> None:
    assert init_label(init, "resnet18") == label


def test_the_study_writes_tables_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "runs", tmp_path / "out"
    for seed in range(3):
        save_run(root, "random", seed, 0.5 + seed / 100, number=3)
        folder = save_run(root, "runs/own/export", seed, 0.6 + seed / 50, number=3)
        for name in IMAGES:
            path = RunPaths(folder).maps / "secondary" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (0, 255, 255)).save(path)
    main([str(root), "--out", str(out), "--label", "runs/own/export=micrographs"])
    page = (out / "study.md").read_text()
    assert "| **micrographs** | 62.0 ± 2.0 (n 3) |" in page
    assert "| *paper A: MicroNet* | *66.9 ± 13.2* |" in page
    assert "| 64.0 % | 25.0 % | 25.0 % |" in page  # of the best: (0.64 - 0.52) / 0.48
    assert "just the range" in page and "75%" in page
    with (out / "table2.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["initialisation"] == "random" and float(rows[0]["Super-3 n"]) == 3
    assert {row["source"] for row in rows} == {"ours", "NASA/TM-20210026119 Table 2"}
    assert {path.name for path in out.glob("*.png")} == {"scores.png", "figure3.png"}
    assert "6 runs: 6 finished" in capsys.readouterr().out


def test_the_study_reads_what_segment_writes(tmp_path: Path, squares: Path) -> None:
    for init, seed in (("random", 0), ("random", 1)):
        config = SegmentConfig(
            data=squares,
            init=init,
            seed=seed,
            run_dir=tmp_path / f"{init}.{seed}",
            crop_size=32,
            max_epochs=1,
            stage2_lr=None,
            threads=1,
        )
        segment(config)
    runs = read_runs(tmp_path)
    assert len({run.twin for run in runs}) == 2  # of two seeds
    scores = json.loads(RunPaths(runs[0].folder).results.read_text())["test"]
    assert runs[0].micro_iou == scores["micro_iou"]
    assert set(runs[0].image_micro_iou or {}) == {"test0", "test1"}
    main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert "No two runs differ" in (tmp_path / "out" / "study.md").read_text()


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no downstream"):
        read_runs(tmp_path)
    save_run(tmp_path, "random", 0, 0.5)
    with pytest.raises(UserError, match="no run has the init 'imagnet'; there are random"):
        read_runs(tmp_path, {"imagnet": "x"})
