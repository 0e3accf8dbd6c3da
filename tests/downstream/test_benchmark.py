"""Paper A's seven experiments, from the folders as published; skipped where they are absent."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT

from downstream.calibrate import calibrate
from downstream.check import check
from downstream.finetune.config import SegmentConfig
from downstream.finetune.labelled_set import read_labelled_set
from downstream.images.scan import open_image
from downstream.network.segmenter import load_segmenter
from downstream.reliability.calibration_file import read_reference
from downstream.reliability.out_of_distribution import ood_score
from downstream.segment import segment
from micrograph.settings import build_config, read_recipe

RECIPES = ROOT / "configs" / "downstream"
# Images of each split. The archive at hand may lack two training images of EBC1 and EBC3.
EXPERIMENTS = {
    "super1": (10, 4, 4),
    "super2": (4, 4, 4),
    "super3": (1, 4, 4),
    "super4": (4, 4, 5),
    "ebc1": (16, 3, 3),
    "ebc2": (4, 3, 3),
    "ebc3-oneshot": (1, 3, 3),
    "ebc3-specimen": (13, 3, 6),
}
COMPLETE = {"ebc1": (18, 3, 3), "ebc3-specimen": (15, 3, 6)}


def recipe(name: str, data: Path) -> SegmentConfig:
    return build_config(SegmentConfig, read_recipe(RECIPES / f"{name}.yaml") | {"data": data})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_recipe_loads_its_images(name: str, benchmark: Path) -> None:
    data = read_labelled_set(recipe(name, benchmark))
    counts = (len(data.train), len(data.val), len(data.test))
    assert counts in (EXPERIMENTS[name], COMPLETE.get(name))
    sizes = {item.mask.shape for item in (*data.train, *data.val, *data.test)}
    assert sizes == {(512, 512) if name.startswith("super") else (1024, 1024)}
    shares = [
        sum(int((item.mask == index).sum()) for item in data.test)
        / sum(item.mask.size for item in data.test)
        for index in range(len(data.classes))
    ]
    if name.startswith("super"):  # secondary precipitates are many, tertiary few
        assert data.class_names == ("matrix", "secondary", "tertiary")
        assert 0.4 < shares[1] < 0.6 and 0.005 < shares[2] < 0.05
    else:
        assert data.class_names == ("rest", "oxide")
        assert 0.05 < shares[1] < 0.35


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_recipe_trains(name: str, benchmark: Path, tmp_path: Path) -> None:
    config = recipe(name, benchmark)
    assert config.orientation == ("any" if name.startswith("super") else "hflip")
    # One small image of each split, one step a stage: what is tested is that all fits together.
    splits = {
        split: (_first(benchmark, config.entries[split][0]),) for split in ("train", "val", "test")
    }
    small = replace(config, **splits, crop_size=64, max_epochs=1, run_dir=tmp_path)  # type: ignore[arg-type]
    results = segment(replace(small, arch="mobilenet_v2", decoder="FPN"))
    assert results["steps"] == 2 and results["skipped_steps"] == 0
    assert set(results["test"]["iou"]) == set(results["classes"])


@pytest.mark.slow
def test_images_of_other_imaging_lie_farther_than_those_of_the_same(
    benchmark: Path, tmp_path: Path
) -> None:
    config = recipe("super4", benchmark)
    short = {"max_epochs": 4, "stage2_lr": None, "samples_per_epoch": 16, "batch_size": 4}
    small = {"arch": "resnet18", "crop_size": 128, "threads": 1, "run_dir": tmp_path}
    segment(replace(config, **short, **small))  # type: ignore[arg-type]
    limit = calibrate(tmp_path).ood_limit
    segmenter, reference = load_segmenter(tmp_path), read_reference(tmp_path)

    def distances(entry: str) -> list[float]:
        scans = [open_image(path) for path in sorted((benchmark / entry).iterdir())]
        return [ood_score(scan, segmenter, reference, 128) / limit for scan in scans]

    same, other = distances("Super1/test"), distances("Super4/test")
    assert np.median(other) > 1.2 * np.median(same)
    assert max(other) > 1 and max(same) < 1  # only what is unlike is warned of


def test_the_specimen_in_all_splits_of_ebc1_is_reported(benchmark: Path) -> None:
    warnings = check(recipe("ebc1", benchmark)).warnings
    assert any("050317#3_S044 is in train and val and test" in line for line in warnings)
    found = check(recipe("ebc3-specimen", benchmark))
    assert not found.faults
    assert not any("test" in line for line in found.warnings)


def test_the_superalloy_masks_are_refused_until_named(benchmark: Path) -> None:
    found = check(SegmentConfig(data=benchmark / "Super3"))
    assert "--classes rest=rest 'blue=#0000ff' 'red=#ff0000'" in found.faults[0]


def _first(root: Path, entry: str) -> str:
    path = root / entry
    return entry if path.is_file() else f"{entry}/{min(path.iterdir()).name}"
