"""Paper B's tables and what they leave out, on runs whose scores are set by hand."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from downstream.adapt_study import main
from downstream.adaptation.config import AdaptConfig
from downstream.studies.adapt_findings import bn_share, gains, shared_tests
from downstream.studies.adapt_runs import read_adapt_runs
from micrograph.atomic import write_json
from micrograph.cli import UserError
from micrograph.literature_values import read_published
from micrograph.settings import dump_config
from pretrain.runs.run_folder import RunPaths

PAGE = "adapt_study.md"
IMAGES = ("a", "b")


def save_run(
    root: Path,
    method: str,
    fold: int,
    source: float | None,
    targets: Mapping[str, float],
    *,
    target: str | None = None,
    seed: int = 0,
    fraction: float = 0.5,
    truth: float = 0.4,
    warnings: tuple[str, ...] = (),
    collapse: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """A run folder with these mIoUs; without `source`, one that is not finished."""
    extra = "".join(f".{value}" for value in (settings or {}).values())
    paths = RunPaths(root / f"{method}.{target}.{fold}.{seed}{extra}")
    paths.folder.mkdir(parents=True)
    config = AdaptConfig(
        **{
            "study": Path("domains.yaml"),
            "method": method,
            "target": target,
            "fold": fold,
            "seed": seed,
            "arch": "resnet18",
            "run_dir": paths.folder,
            **(settings or {}),
        }
    )
    paths.config.write_text(dump_config(config))
    if source is None:
        return paths.folder

    def domain(split: str, miou: float) -> dict[str, Any]:
        # 1,000 pixels: `truth` of them lath; as many false as missed.
        lath, wrong = round(1000 * truth), 50
        return {
            "split": split,
            "adapted": target is not None,
            "miou": miou,
            "iou": {"matrix": miou, "lath": miou},
            "phase_fraction": {"matrix": 1 - fraction, "lath": fraction},
            "phase_fraction_true": {"matrix": 1 - truth, "lath": truth},
            "confusion": [[1000 - lath - wrong, wrong], [wrong, lath - wrong]],
            "images": [{"name": name, "miou": miou} for name in IMAGES],
        }

    scored = targets if target is None else {target: targets[target]}
    write_json(
        paths.results,
        {
            "schema_version": 1,
            "run_id": f"id.{paths.folder.name}",
            "study": "bainite",
            "arch": config.arch,
            "collapse": collapse,
            "domains": {"source": domain("val", source)}
            | {name: domain("test", miou) for name, miou in scored.items()},
            "seconds_per_step": 0.2 if target is None else 0.5,
            "monitor": {"warnings": list(warnings)},
        },
    )
    return paths.folder


def save_study(root: Path) -> None:
    """Two folds, one seed: DG 60 and 64 %, bn_adapt +2, adaptsegnet +8 and +4 on T1."""
    for fold, base in enumerate((0.60, 0.64)):
        save_run(root, "source_only", fold, 0.79 + fold / 100, {"T1": base, "T2": 0.5})
        save_run(root, "bn_adapt", fold, 0.75, {"T1": base + 0.02}, target="T1", fraction=0.45)
        gain = 0.08 - 0.04 * fold
        save_run(
            root, "adaptsegnet", fold, 0.78, {"T1": base + gain}, target="T1", fraction=0.41,
        )  # fmt: skip


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_runs_of_a_folder_become_variants(tmp_path: Path) -> None:
    save_study(tmp_path)
    save_run(tmp_path, "advent", 0, 0.7, {"T1": 0.6}, target="T1", settings={"style": "fda"})
    save_run(tmp_path, "advent", 1, None, {}, target="T1")
    runs = read_adapt_runs(tmp_path)
    methods = [variant.method for variant in runs.variants()]
    assert methods == ["source_only", "bn_adapt", "adaptsegnet", "advent + fda"]
    assert (len(runs.runs), runs.runs.finished.sum()) == (8, 7)
    assert runs.targets == ["T1", "T2"]
    baseline = runs.counterpart(runs.variants()[2], "source_only")
    assert baseline == runs.variants()[0]


def test_a_run_counts_only_on_the_target_that_it_saw(tmp_path: Path) -> None:
    """Fourier style is of a target too; the run is scored on the others all the same."""
    fda = {"style": "fda"}
    folder = save_run(tmp_path, "source_only", 0, 0.7, {"T1": 0.6}, target="T1", settings=fda)
    results = json.loads(RunPaths(folder).results.read_text())
    results["domains"]["T2"] = results["domains"]["T1"]
    write_json(RunPaths(folder).results, results)
    assert read_adapt_runs(tmp_path).targets == ["T1"]


def test_gains_are_paired_by_fold_and_seed(tmp_path: Path) -> None:
    save_study(tmp_path)
    save_run(tmp_path, "adaptsegnet", 2, 0.7, {"T1": 0.9}, target="T1")  # has no partner
    found = {gain.variant.method: gain for gain in gains(read_adapt_runs(tmp_path))}
    paired = found["adaptsegnet"].paired
    assert (paired.pairs, paired.wins) == (2, 2)
    assert paired.values == pytest.approx((0.08, 0.04))
    bootstrap, student = paired.bootstrap, paired.student
    assert (bootstrap.low, bootstrap.high) == pytest.approx((0.04, 0.08))
    # Student: 0.06 -+ 12.706 * 0.02
    assert (student.low, student.high) == pytest.approx((-0.194, 0.314), abs=1e-3)
    assert paired.images == 2 and paired.image_mean == pytest.approx(0.06)


def test_bn_adapt_explains_a_share_of_the_gain(tmp_path: Path) -> None:
    save_study(tmp_path)
    found = {gain.variant.method: gain for gain in gains(read_adapt_runs(tmp_path))}
    assert found["bn_adapt"].bn_share is None
    share = found["adaptsegnet"].bn_share
    assert share is not None
    # 2 of 6 points; alone, the folds say 2 of 8 and 2 of 4.
    assert share.value == pytest.approx(1 / 3)
    assert (share.interval.low, share.interval.high) == pytest.approx((1 / 4, 1 / 2))


def test_an_uncertain_gain_has_no_share() -> None:
    def scores(*values: float) -> pd.DataFrame:
        return pd.DataFrame({"fold": range(len(values)), "seed": 0, "miou": values})

    share = bn_share(scores(0.5, 0.5), scores(0.51, 0.51), scores(0.6, 0.45))
    assert share is not None and math.isnan(share.value)
    one = bn_share(scores(0.5), scores(0.51), scores(0.54))
    assert one is not None and one.value == pytest.approx(0.25) and math.isnan(one.interval.low)


def test_rdts_are_shown_with_their_reference(tmp_path: Path) -> None:
    root, out = tmp_path / "runs", tmp_path / "out"
    save_study(root)
    main([str(root), "--out", str(out)])
    (reference,) = json.loads((out / "references.json").read_text())
    assert reference["miou"] == pytest.approx(0.795)
    assert reference["run_ids"] == ["id.source_only.None.0.0", "id.source_only.None.1.0"]
    rows = {row["Model"]: row for row in read_csv(out / "table3.csv")}
    adapted = rows["UDA adaptsegnet - resnet18 DeepLabV2"]
    assert float(adapted["RDT"]) == pytest.approx((0.68 - 0.795) / 0.795, abs=1e-5)
    assert adapted["reference"] == reference["id"]
    save_run(root, "source_only", 2, 0.7, {"T1": 0.6, "T2": 0.5})
    main([str(root), "--out", str(out)])
    assert json.loads((out / "references.json").read_text())[0]["id"] != reference["id"]


def test_two_printed_rdts_have_another_reference() -> None:
    """A reference is refuted if no unrounded numbers give all three printed ones."""
    rows = read_published("paper_b")
    generalisation = rows.query("table in ('3', '4') and method == 'source_only'")
    cells = generalisation.pivot(index="experiment", columns="quantity", values="value")
    sources = rows.query("table == '2' and quantity == 'miou'").set_index("experiment").value
    source = ("S." + cells.index.str.partition(".").get_level_values(2)).map(sources)
    half = 0.0005  # one decimal of percent
    low, high = ((cells.miou + s * half) / (source - s * half) - 1 for s in (-1, 1))
    wrong = cells[(cells.rdt + half < low) | (cells.rdt - half > high)]
    assert len(cells) == 20 and list(wrong.index) == ["T1.3", "T2.3"]
    assert list(wrong.rdt) == pytest.approx([-0.042, -0.315])
    assert list(wrong.miou / sources["S.3"] - 1) == pytest.approx([-0.066, -0.333], abs=half)
    assert sources["S.3"] == 0.787
    assert list(wrong.miou / (1 + wrong.rdt)) == pytest.approx([0.767, 0.767], abs=0.0007)


def test_the_page_has_the_tables_of_the_paper(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_study(tmp_path)
    main([str(tmp_path)])
    page = (tmp_path / PAGE).read_text()
    assert page.strip() in capsys.readouterr().out
    for expected in (
        "| DG - resnet18 DeepLabV2 | random | extended | 2 | 79.5 ± 0.7 |",
        "| *paper B, T1.11: UDA - resnet101 DeepLabV2* | imagenet | extended | 5 | 84.7 ± 0.7 |",
        "| T1 | lath | resnet18 DeepLabV2 | random | extended | 40.0 | 50.0 ± 0.0 | 45.0 ± 0.0 |",
        "| +6.0 [+4.0, +8.0] |",
        "33.3 [25.0, 50.0]",
        "18 follow from its mIoUs; not T1.3 (-4.2, of 78.7 it would be -6.6), T2.3",
    ):
        assert expected in page, expected
    assert "Table 6" not in page  # all runs are of one length
    assert {path.name for path in tmp_path.glob("*.csv")} == {
        *("table2.csv", "table3.csv", "table4.csv", "table7.csv", "gains.csv", "source.csv"),
        "runs.csv",
    }


def test_two_lengths_make_table_6(tmp_path: Path) -> None:
    for steps, miou in ((100, 0.5), (200, 0.6)):
        settings = {"steps": steps, "warmup_steps": 0}
        save_run(tmp_path, "source_only", 0, 0.8, {"T1": miou}, settings=settings)
    main([str(tmp_path)])
    (row,) = read_csv(tmp_path / "table6-T1.csv")
    assert float(row["mIoU, 100 steps mean"]) == 0.5
    assert float(row["RDT, 200 steps"]) == pytest.approx(-0.25)
    ours = [row for row in read_csv(tmp_path / "table3.csv") if row["n"] == "1"]
    assert [row["mIoU mean"] for row in ours] == ["0.6"]  # of the longer ones alone


def test_initialisations_are_compared_in_pairs(tmp_path: Path) -> None:
    for init, gain in (("random", 0.0), ("imagenet", 0.1), ("resnet18.image-nanosem", 0.2)):
        for fold in range(2):
            targets = {"T2": 0.5 + gain * (1 + fold)}
            settings = {"init": init, "network": "Unet"}
            save_run(tmp_path, "source_only", fold, 0.7 + gain, targets, settings=settings)
    main([str(tmp_path)])
    rows = read_csv(tmp_path / "pretraining.csv")
    gains = {(r["On"], r["Pre-training"], r["less"]): r for r in rows}
    assert list(gains) == [
        ("source", "imagenet", "random"),
        ("source", "image-nanosem", "random"),
        ("T2", "imagenet", "random"),
        ("T2", "image-nanosem", "random"),
    ]
    assert float(gains["T2", "imagenet", "random"]["difference"]) == pytest.approx(0.15)
    assert gains["source", "image-nanosem", "random"]["pairs"] == "2"


def test_targets_with_one_test_set_are_compared(tmp_path: Path) -> None:
    for fold in range(2):
        save_run(tmp_path, "adaptsegnet", fold, 0.8, {"T3": 0.78}, target="T3")
        save_run(tmp_path, "adaptsegnet", fold, 0.8, {"T3v": 0.77 - fold / 100}, target="T3v")
        save_run(tmp_path, "adaptsegnet", fold, 0.8, {"T2": 0.5}, target="T2", truth=0.3)
    runs = read_adapt_runs(tmp_path)
    assert shared_tests(runs) == [("T3", "T3v")]
    main([str(tmp_path)])
    page = (tmp_path / PAGE).read_text()
    assert "| 2 | T3 | 78.0 ± 0.0 | T3v | 76.5 ± 0.7 | -1.5 [-2.0, -1.0] |" in page


def test_mixed_budgets_warnings_and_failures_are_reported(tmp_path: Path) -> None:
    save_run(tmp_path, "source_only", 0, 0.8, {"T1": 0.5}, settings={"lr": 1e-4})
    save_run(tmp_path, "source_only", 1, 0.8, {"T1": 0.5}, warnings=("it drifts",))
    save_run(tmp_path, "source_only", 2, 0.3, {"T1": 0.3}, collapse="it predicts lath everywhere")
    main([str(tmp_path)])
    page = (tmp_path / PAGE).read_text()
    assert "differ in lr (0.0001, 6e-05)" in page and "it drifts" in page
    assert "3 finished, of them 1 failed" in page
    assert "source_only.None.2.0 failed: it predicts lath everywhere" in page


def test_repeated_runs_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lr, miou in ((1e-4, 0.5), (1e-3, 0.6)):
        save_run(tmp_path, "source_only", 0, 0.8, {"T1": miou}, settings={"lr": lr})
    save_run(tmp_path, "source_only", 1, 0.8, {"T1": 0.5}, settings={"multi_level": False})
    main([str(tmp_path)])
    page = capsys.readouterr().out
    first, last = "source_only.None.0.0.0.0001", "source_only.None.0.0.0.001"
    assert (
        f"**{last} repeats variant, target, fold and seed of {first}: only {last} counts.**" in page
    )
    assert "differ in lr (0.0001, 0.001, 6e-05)" in page
    assert "differ in multi_level (False, True)" in page


def test_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no downstream\.adapt run"):
        read_adapt_runs(tmp_path)
    folder = save_run(tmp_path, "adaptsegnet", 0, 0.8, {"T1": 0.5}, target="T1")
    RunPaths(folder).config.write_text("data: d\ndecoder: Unet\n")  # as downstream.segment's
    with pytest.raises(UserError, match=r"config\.yaml is not of a downstream\.adapt run"):
        read_adapt_runs(tmp_path)


def test_unfinished_runs_count_nowhere(tmp_path: Path) -> None:
    save_run(tmp_path, "source_only", 0, None, {})
    main([str(tmp_path)])
    assert "1 run: 0 finished" in (tmp_path / PAGE).read_text()
    assert [path.name for path in tmp_path.glob("*.csv")] == ["runs.csv"]
