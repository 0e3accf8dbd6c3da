"""Synthetic lath bainite: exact masks, reproducible images, continuous shifts."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT
from PIL import Image

from downstream import bainite
from downstream.domains.prepare import prepare_source, prepare_target
from downstream.domains.study import read_domain_study
from downstream.domains.synthetic.scene import draw_scene
from downstream.domains.synthetic.shift import SOURCE, TARGETS, Shift, interpolate
from downstream.domains.synthetic.view import draw_image, render

SHAPE = (160, 224)
STUDY = ROOT / "configs" / "downstream" / "domains" / "bainite.yaml"


def difference(one: Shift, other: Shift) -> float:
    """Mean grey values between two preparations of one specimen."""
    scene = draw_scene(np.random.default_rng(3), SHAPE, 0.5)
    images = [render(scene, shift, np.random.default_rng(4))[0] for shift in (one, other)]
    return float(np.abs(images[0].astype(float) - images[1]).mean())


def test_masks_show_the_specimen_and_not_its_preparation() -> None:
    overetched = dataclasses.replace(TARGETS["T2"], bainite=SOURCE.bainite)
    pixels, mask = draw_image(SOURCE, SHAPE, 1, 0, 0)
    etched, etched_mask = draw_image(overetched, SHAPE, 1, 0, 0)
    np.testing.assert_array_equal(mask, etched_mask)
    assert (pixels != etched).mean() > 0.5


def test_as_much_bainite_as_asked_for() -> None:
    for fraction in (0.0, 0.29, 0.53, 1.0):
        shift = dataclasses.replace(SOURCE, bainite=fraction)
        masks = [draw_image(shift, SHAPE, 2, 0, number)[1] for number in range(4)]
        assert set(np.unique(masks)) <= {0, 1}
        assert np.mean(masks) == pytest.approx(fraction, abs=0.1)


def test_a_light_micrograph_shows_the_same_field_with_fewer_pixels() -> None:
    pixels, mask = draw_image(TARGETS["T3"], (384, 512), 0, 0, 0)
    assert pixels.shape == mask.shape == (84, 112)  # 27.7 / 126.6
    fine, fine_mask = draw_image(SOURCE, (384, 512), 0, 0, 0)  # as much bainite: the same specimen
    assert mask.mean() == pytest.approx(fine_mask.mean(), abs=0.005)
    coarse = np.asarray(Image.fromarray(fine).resize((112, 84), Image.Resampling.BOX))
    assert np.corrcoef(pixels.ravel(), coarse.ravel())[0, 1] < -0.4  # bright is dark


def test_strength_leads_from_the_source_to_the_target_without_a_jump() -> None:
    for name in ("T1", "T2"):
        target = TARGETS[name]
        assert interpolate(SOURCE, target, 0) == SOURCE
        for field, value in dataclasses.asdict(interpolate(SOURCE, target, 1)).items():
            assert value == pytest.approx(getattr(target, field)), field
        target = dataclasses.replace(target, artefacts=0)  # each is there or not
        found = [
            difference(SOURCE, interpolate(SOURCE, target, s)) for s in (0.01, 0.25, 0.5, 1.0, 1.5)
        ]
        assert found == sorted(found) and found[0] < 0.05 * found[3]


def test_the_program_draws_what_the_study_reads(tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    flags = ["--images", "5", "--target-images", "2", "--test-images", "1"]
    bainite.main(["--out", str(out), *flags, "--size", "160", "224", "--seed", "7"])
    study = read_domain_study(STUDY, out)
    train, val = prepare_source(study, fold=0)
    assert (len(train), len(val)) == (4, 1)
    for name in study.targets:
        target = prepare_target(study, name)
        assert (len(target.train), len(target.test)) == (2, 1)
        height, width = target.test[0].pixels.shape[:2]
        assert abs(height - 80) <= 1 and abs(width - 112) <= 1  # as the source's, halved
        assert target.test[0].mask is not None and target.train[0].mask is None
    drawn = np.asarray(Image.open(out / "T3" / "train" / "T3_train_001.png"))
    np.testing.assert_array_equal(drawn, draw_image(TARGETS["T3"], (160, 224), 7, 5, 1)[0])
    assert json.loads((out / "domains.json").read_text())["domains"]["T2"]["bainite"] == 0.29


def test_invalid_settings_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    for flags, message in (
        (["--out", str(tmp_path / "used")], "already exists"),
        (["--out", str(tmp_path / "x"), "--size", "100", "100"], "at least 160"),
        (["--out", str(tmp_path / "x"), "--size", "384"], "a height and a width"),
        (["--out", str(tmp_path / "x"), "--strength", "-1"], "0 to 3"),
    ):
        with pytest.raises(SystemExit):
            bainite.main(flags)
        assert message in capsys.readouterr().err
