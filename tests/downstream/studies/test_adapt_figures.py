"""Ensembles and figures of adaptation runs, on toy domains."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import SMALL_ARCH
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


@pytest.mark.parametrize(
    ("members", "miou"),
    [
        ((0.95, 0.3, 0.3), 1.0),  # mean 0.52; most members say class 0
        ((0.9, 0.7, 0.001), 1.0),  # mean 0.53; the mean logit says class 0
        ((0.02, 0.7, 0.7), 0.0),  # mean 0.47; most members say class 1
    ],
)
def test_a_bag_is_the_mean_of_probabilities(
    toy: Path, members: tuple[float, ...], miou: float
) -> None:
    study = read_domain_study(toy)
    segmenters = [Segmenter(Sure(p), (0.5,) * 3, (0.5,) * 3, torch.device("cpu")) for p in members]
    image = prepare_target(study, "faded").test[0]
    image = replace(image, native_mask=np.ones(image.native_shape, np.uint8))
    assert bag_miou(segmenters, study, [image], batch_size=2) == miou


def test_the_study_reads_and_draws_what_adapt_writes(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, target in (("source_only", None), ("bn_adapt", "faded")):
        for fold in range(2):
            config = AdaptConfig(
                study=toy,
                method=method,  # type: ignore[arg-type]
                target=target,
                fold=fold,
                arch=SMALL_ARCH,
                network="Unet",
                steps=1,
                batch_size=2,
                augmentation="none",
                threads=1,
                run_dir=tmp_path / "runs" / f"{method}.{fold}",
            )
            adapt(config)
    out = tmp_path / "out"
    main([str(tmp_path / "runs"), "--out", str(out), "--bagging"])
    page = (out / "adapt_study.md").read_text()
    assert "## As Table 3: faded" in page and "4 runs: 4 finished" in page
    with (out / "bagging.csv").open() as stream:
        bags = list(csv.DictReader(stream))
    assert {row["members"] for row in bags} == {"2"}
    assert all(0 <= float(row["bagged"]) <= 1 for row in bags)
    # Micrograph, two predictions and the label beside each other.
    with Image.open(out / "figure4-faded.png") as picture:
        assert picture.width == 4 * 206 + 6
    assert (out / "scores.png").is_file()
    capsys.readouterr()
    main([str(tmp_path / "runs"), "--out", str(tmp_path / "again"), "--data", "/nowhere"])
    assert "no figure of faded" in capsys.readouterr().err
