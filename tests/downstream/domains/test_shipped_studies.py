"""The domain studies of the project can be read, and the real ones find their images."""

from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT

from downstream.domains.prepare import prepare_source, prepare_target
from downstream.domains.study import read_domain_study

STUDIES = ROOT / "configs" / "downstream" / "domains"


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_study_reads(path: Path) -> None:
    study = read_domain_study(path, Path("anywhere"))
    assert study.plan(100, 100).side % 4 == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "target", "counts", "share"),
    [
        ("super4", "other_imaging", (4, 4, 5, 5), 0.034),
        ("super4-binary", "other_imaging", (4, 4, 5, 5), 0.50),
        ("ebc3", "specimen_050317", (12, 4, 6, 6), 0.21),
    ],
)
def test_published_images_become_domains(
    benchmark: Path, name: str, target: str, counts: tuple[int, ...], share: float
) -> None:
    study = read_domain_study(STUDIES / f"{name}.yaml", benchmark)
    train, val = prepare_source(study, fold=0)
    images = prepare_target(study, target)
    assert (len(train), len(val), len(images.train), len(images.test)) == counts
    assert all(image.pixels.shape == (512, 512, 3) for image in (*train, *val, *images.test))
    assert all(image.mask is None for image in images.train)
    last = len(study.class_names) - 1
    masks = [image.native_mask for image in images.test if image.native_mask is not None]
    assert len(masks) == counts[3]
    assert np.mean([mask == last for mask in masks]) == pytest.approx(share, abs=0.01)
