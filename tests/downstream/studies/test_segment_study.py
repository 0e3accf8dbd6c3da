"""Paper A's tables and figures, on runs whose scores are set by hand."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from downstream.finetune.config import SegmentConfig
from downstream.segment import segment
from downstream.studies.runs import init_label
from downstream.studies.segment_runs import mixed_budgets, read_runs, shared_settings
from downstream.studies.segment_tables import (
    best_run,
    init_differences,
    pair_runs,
    relative_error_reduction,
    score_cell,
)
from downstream.study import main
from micrograph.atomic import write_json
from micrograph.literature_values import read_published
from micrograph.settings import dump_config
from pretrain.runs.run_folder import RunPaths

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


@pytest.mark.parametrize(("experiment", "percent"), [("Super-3", 72.2), ("EBC-3", 14.3)])
def test_the_papers_error_reductions_follow_from_its_scores(
    experiment: str, percent: float
) -> None:
    rows = read_published("paper_a").query("table == 'best'").set_index(["name", "experiment"])
    imagenet, micronet = (rows.value[name, experiment] for name in ("imagenet", "micronet"))
    assert round(100 * relative_error_reduction(imagenet, micronet), 1) == percent


def test_a_cell_counts_failed_and_unfinished_runs(tmp_path: Path) -> None:
    for seed, value in enumerate((0.8, 0.6)):
        save_run(tmp_path, "random", seed, value)
    save_run(tmp_path, "random", 2, 0.1, collapse="it predicts matrix everywhere")
    save_run(tmp_path, "random", 3, None)
    found = score_cell(read_runs(tmp_path), "micro_iou")
    assert (found.n, found.others["failed"], found.others["unfinished"]) == (3, 1, 1)
    assert found.mean == pytest.approx(0.5)
    assert found.std == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 2))
    assert found.others["converged mean"] == pytest.approx(0.7)
    assert str(found) == "50.0 ± 36.1 (n 3, 1 failed; 70.0 without, 1 unfinished)"


def test_a_collapsed_run_is_never_the_best(tmp_path: Path) -> None:
    save_run(tmp_path, "random", 0, 0.5)
    save_run(tmp_path, "random", 1, 0.9, collapse="diverged")
    assert best_run(read_runs(tmp_path)).seed == 0


def test_pairs_differ_in_the_initialisation_alone(tmp_path: Path) -> None:
    save_run(tmp_path, "random", 0, 0.5, per_image=(0.5, 0.4))
    save_run(tmp_path, "imagenet", 0, 0.6, per_image=(0.7, 0.7))
    save_run(tmp_path, "random", 1, 0.5)  # no partner of seed 1
    save_run(tmp_path, "random", 2, 0.5)
    save_run(tmp_path, "imagenet", 2, 0.9, settings={"max_epochs": 7})  # another budget
    runs = read_runs(tmp_path)
    assert pair_runs(runs, "random", "imagenet").seed.tolist() == [0]
    (found,) = init_differences(runs, "random")
    assert (found.paired.pairs, found.paired.wins, found.paired.images) == (1, 1, 2)
    assert found.paired.mean == pytest.approx(0.1)
    assert found.paired.image_mean == pytest.approx(0.25)


def test_experiments_count_equally_in_the_difference_over_all(tmp_path: Path) -> None:
    for number, seeds, gain in ((1, 2, 0.1), (2, 4, 0.3)):
        for seed in range(seeds):
            save_run(tmp_path, "random", seed, 0.5, number=number)
            save_run(tmp_path, "imagenet", seed, 0.5 + gain, number=number)
    *single, over_all = init_differences(read_runs(tmp_path), "random")
    assert [d.experiment for d in single] == ["Super-1", "Super-2"]
    assert over_all.paired.mean == pytest.approx(0.2)
    assert over_all.paired.pairs == 6


def test_a_mixed_budget_is_reported(tmp_path: Path) -> None:
    save_run(tmp_path, "random", 0, 0.5, settings={"max_epochs": 7, "crop_size": 256})
    save_run(tmp_path, "random", 1, 0.5, settings={"max_epochs": 9, "crop_size": 256})
    runs = read_runs(tmp_path)
    assert mixed_budgets(runs) == {"max_epochs": ["7", "9"]}
    assert shared_settings(runs) == {"crop_size": 256}
    main([str(tmp_path)])
    assert "differ in max_epochs (7, 9)" in (tmp_path / "study.md").read_text()


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


def test_the_study_writes_tables_and_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "runs", tmp_path / "out"
    for seed in range(3):
        save_run(root, "random", seed, 0.5 + seed / 100, number=3)
        save_run(root, "runs/own/export", seed, 0.6 + seed / 50, number=3)
    main([str(root), "--out", str(out)])
    page = (out / "study.md").read_text()
    assert "| own | ours | micro_iou | 62.0 ± 2.0 (n 3) |" in page
    assert "| micronet | NASA/TM-20210026119 Table 2 | micro_iou | 66.9 ± 13.2 |" in page
    best = "| Unet, resnet18, seed 2 | 64.0 | 25.0 |"  # (0.64 - 0.52) / 0.48
    assert f"| Super-3 | own {best}" in page
    assert "3 | 3 | +11.0 [+10.0, +12.0] | +11.0 [+8.5, +13.5] |" in page and "75%" in page
    with (out / "table2.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["initialisation"] == "random" and float(rows[0]["Super-3 n"]) == 3
    assert {row["source"] for row in rows} == {"ours", "NASA/TM-20210026119 Table 2"}
    assert {path.name for path in out.glob("*.png")} == {"scores.png"}
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
    assert runs.twin.nunique() == 2  # of two seeds
    scores = json.loads(RunPaths(runs.folder[0]).results.read_text())["test"]
    assert runs.micro_iou[0] == scores["micro_iou"]
    assert set(runs.image_micro_iou[0]) == {"test0", "test1"}
    main([str(tmp_path), "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "study.md").read_text()
    assert "## Table 2" in page and "Paired" not in page  # the runs differ in their seed alone
