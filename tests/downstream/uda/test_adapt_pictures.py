"""Bagging, predictions in pictures and Grad-CAM of an adaptation study, on tiny drawn domains."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from downstream.seg.segmenter import Segmenter
from downstream.uda.bench.bagging import bag_miou
from downstream.uda.domains import DomainStudy, read_study
from downstream.uda.prepare import prepare_target


class Sure(nn.Module):
    """Gives class 1 one probability everywhere."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.logit = float(np.log(probability / (1 - probability)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros_like(x[:, 0]), torch.full_like(x[:, 0], self.logit)], 1)


@pytest.fixture
def study(tmp_path: Path) -> DomainStudy:
    """A target whose one test image is of class 1 all over."""
    for domain in ("source", "T1"):
        for split in ("train", "test"):
            ramp = np.tile(np.arange(40, dtype=np.uint8), (48, 1))
            for folder, picture in ((split, ramp), (f"{split}_annot", np.full_like(ramp, 255))):
                path = tmp_path / domain / folder / "a.png"
                path.parent.mkdir(parents=True)
                Image.fromarray(picture).save(path)
    file = tmp_path / "study.yaml"
    file.write_text(
        f"data: {tmp_path}\nclasses: [background=0, lath=255]\ninner: 32\nring: 8\n"
        "source: {data: source}\ntargets: {T1: {data: T1}}\n"
    )
    return read_study(file)


@pytest.mark.parametrize(
    ("members", "miou"),
    [
        ((0.95, 0.3, 0.3), 1.0),  # mean 0.52; most members say class 0
        ((0.9, 0.7, 0.001), 1.0),  # mean 0.53; the mean logit says class 0
        ((0.02, 0.7, 0.7), 0.0),  # mean 0.47; most members say class 1
    ],
)
def test_a_bag_is_the_mean_of_probabilities(
    study: DomainStudy, members: tuple[float, ...], miou: float
) -> None:
    segmenters = [Segmenter(Sure(p), (0.5,) * 3, (0.5,) * 3, torch.device("cpu")) for p in members]
    images = prepare_target(study, "T1").test
    assert bag_miou(segmenters, study, images, batch_size=2) == miou
