"""Bagging and figures of adaptation runs, on tiny drawn domains."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from downstream.adapt import adapt
from downstream.adapt_study import main
from downstream.adaptation.config import AdaptConfig
from downstream.domains.prepare import prepare_target
from downstream.domains.study import read_domain_study
from downstream.network.segmenter import Segmenter
from downstream.studies.bagging import bag_miou


class Sure(nn.Module):
    """Gives class 1 one probability everywhere."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.logit = float(np.log(probability / (1 - probability)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros_like(x[:, 0]), torch.full_like(x[:, 0], self.logit)], 1)


def write_domains(root: Path, seed: int | None) -> Path:
    """Bright discs on a dark ground, on the target darker; without `seed`, disc all over."""
    rng = np.random.default_rng(seed)
    for domain, split, bright in (
        ("source", "train", 200),
        ("T1", "train", 150),
        ("T1", "test", 150),
    ):
        for number in range(2):
            distance = np.hypot(*(np.mgrid[:96, :96] - rng.integers(30, 66, (2, 1, 1))))
            disc = distance < (25 if seed is not None else 200)
            grey = rng.normal(np.where(disc, bright, 80), 10).clip(0, 255).astype(np.uint8)
            for folder, picture in ((split, grey), (f"{split}_annot", disc.astype(np.uint8) * 255)):
                path = root / "images" / domain / folder / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
    file = root / "discs.yaml"
    file.write_text(
        f"data: {root / 'images'}\nclasses: [ground=0, disc=255]\ntile_core: 32\n"
        "context_margin: 8\nfolds: 2\n"
        "source: {data: source, val: []}\ntargets: {T1: {data: T1}}\n"
    )
    return file


@pytest.mark.parametrize(
    ("members", "miou"),
    [
        ((0.95, 0.3, 0.3), 1.0),  # mean 0.52; most members say class 0
        ((0.9, 0.7, 0.001), 1.0),  # mean 0.53; the mean logit says class 0
        ((0.02, 0.7, 0.7), 0.0),  # mean 0.47; most members say class 1
    ],
)
def test_a_bag_is_the_mean_of_probabilities(
    tmp_path: Path, members: tuple[float, ...], miou: float
) -> None:
    study = read_domain_study(write_domains(tmp_path, seed=None))
    segmenters = [Segmenter(Sure(p), (0.5,) * 3, (0.5,) * 3, torch.device("cpu")) for p in members]
    images = prepare_target(study, "T1").test
    assert bag_miou(segmenters, study, images, batch_size=2) == miou


def test_the_study_reads_and_draws_what_adapt_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_domains(tmp_path, seed=0)
    for method, target, fold in (
        ("source_only", None, 0),
        ("source_only", None, 1),
        ("bn_adapt", "T1", 0),
        ("bn_adapt", "T1", 1),
    ):
        adapt(
            AdaptConfig(
                study=file,
                method=method,  # type: ignore[arg-type]
                target=target,
                fold=fold,
                arch="resnet18",
                steps=1,
                batch_size=2,
                augmentation="none",
                threads=1,
                run_dir=tmp_path / "runs" / f"{method}.{fold}",
            )
        )
    out = tmp_path / "out"
    main([str(tmp_path / "runs"), "--out", str(out), "--bagging"])
    page = (out / "adapt_study.md").read_text()
    assert "## Table 3: T1" in page and "4 runs: 4 finished" in page
    with (out / "bagging.csv").open() as stream:
        bags = [row for row in csv.DictReader(stream) if row["seed"]]
    assert [row["members"] for row in bags] == ["2", "2"]
    assert all(0 <= float(row["bagged"]) <= 1 for row in bags)
    assert {path.name for path in out.glob("*.png")} == {"scores.png", "figure4.png"}
    # Micrograph, two predictions and the label beside each other; two test images.
    with Image.open(out / "figure4.png") as picture:
        assert picture.width == 4 * 206 + 6
    file.write_text(file.read_text().replace("data: ", "data: /nowhere"))
    capsys.readouterr()
    main([str(tmp_path / "runs"), "--out", str(tmp_path / "again")])
    assert "no figure of T1" in capsys.readouterr().err
