"""The transfer report: distances, rehearsals, forecasts, intervals, verdicts, and no label used."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import SMALL_ARCH
from PIL import Image
from torch import nn

from downstream.adapt import adapt, read_data
from downstream.models import create_model
from downstream.seg.segmenter import Segmenter
from downstream.transfer import main, target_images
from downstream.uda.config import AdaptConfig
from downstream.uda.networks import adaptable
from downstream.uda.transfer.forecast import Scored, fit_forecast
from downstream.uda.transfer.interval import domain_interval, image_interval, model_reach
from downstream.uda.transfer.moments import Moments, distance, pool, watch_moments
from downstream.uda.transfer.observers import Observer, open_observers, study_of
from downstream.uda.transfer.rehearsal import CHANGES, plan_rehearsals, rehearse
from downstream.uda.transfer.report import report_domain
from downstream.uda.transfer.signs import Signs, disagreement, look_at, view_source
from downstream.uda.transfer.verdict import Expected, decide
from shards.schema import IMAGENET_MEAN, IMAGENET_STD


def of(mean: float, deviation: float) -> Moments:
    return Moments((np.full(3, mean),), (np.full(3, deviation**2),))


def signs(level: float, moved: float = 0.1) -> Signs:
    """Those of a shift that goes on and on."""
    return Signs(
        features=1 + level,
        batchnorm=1 + 2 * level,
        entropy=0.1 + level / 10,
        turns=0.01,
        moved=moved,
        adapted_entropy=0.1,
    )


def rehearsed(count: int = 12, moved: float = 0.1) -> list[Scored]:
    """mIoU falls with the logarithm of the distance; the fraction is off by half of the loss."""
    levels = np.linspace(0, 4, count)
    losses = 0.3 * np.log1p(levels)
    return [
        Scored(signs(level, moved), 0.9 - loss, 0.85, np.array([-loss / 2, loss / 2]))
        for level, loss in zip(levels, losses, strict=True)
    ]


def test_moments_of_a_layer_are_those_of_all_its_pixels() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(3)).eval()
    first, second = torch.randn(2, 3, 4, 4), 5 + torch.randn(1, 3, 4, 4)
    with watch_moments(net) as watch:
        net(first)
        net(second)
    net(torch.full((1, 3, 4, 4), 99.0))  # no longer watched
    everything = torch.cat([first, second]).double().transpose(0, 1).flatten(1)
    found = watch.moments()
    assert found.means[0] == pytest.approx(everything.mean(1).numpy())
    assert found.variances[0] == pytest.approx(everything.var(1, correction=0).numpy())


def test_distance_is_in_deviations_of_the_source() -> None:
    source = of(0.0, 2.0)
    assert distance(source, source) == 0
    assert distance(of(2.0, 2.0), source) == pytest.approx(1, rel=1e-4)  # moved by one of them
    assert distance(of(0.0, 0.0), source) == pytest.approx(1, rel=1e-4)  # flat
    assert distance(of(6.0, 10.0), source) == pytest.approx(5, rel=1e-4)  # 3 and 4
    assert np.isnan(distance(Moments((), ()), Moments((), ())))


def test_pooled_moments_hold_what_is_between_the_images() -> None:
    both = pool([of(-1.0, 1.0), of(1.0, 1.0)])
    assert both.means[0] == pytest.approx([0, 0, 0])
    assert both.variances[0] == pytest.approx([2, 2, 2])


def test_rehearsals_begin_with_the_images_and_grow(config: AdaptConfig) -> None:
    images = read_data(config).val
    planned = plan_rehearsals(60, 3)
    assert planned == plan_rehearsals(60, 3)
    assert {name for rehearsal in planned for name, _ in rehearsal.parts} == set(CHANGES)
    strengths = [sum(abs(s) for _, s in rehearsal.parts) for rehearsal in planned]
    assert strengths[0] == 0 < np.mean(strengths[1:20]) < np.mean(strengths[40:])
    unchanged = rehearse(planned[0], images, 3)
    for before, after in zip(images, unchanged, strict=True):
        assert np.array_equal(before.pixels, after.pixels)
    for rehearsal in planned[-10:]:
        changed = rehearse(rehearsal, images, 3)
        again = rehearse(rehearsal, images, 3)
        for before, after, same in zip(images, changed, again, strict=True):
            assert after.pixels.dtype == np.uint8 and after.pixels.shape == before.pixels.shape
            assert not np.array_equal(before.pixels, after.pixels)
            assert np.array_equal(after.pixels, same.pixels)
            assert after.mask is before.mask


def test_a_forecast_learns_how_miou_falls() -> None:
    forecast = fit_forecast(rehearsed())
    assert forecast.source_miou == pytest.approx(0.9)
    assert forecast.error < 0.03
    assert forecast.miou(signs(2.0)) == pytest.approx(0.9 - 0.3 * np.log(3), abs=0.03)
    assert forecast.adapted_miou(signs(2.0)) == pytest.approx(0.85, abs=0.01)
    assert forecast.miou(signs(1e6)) == 0  # a share, never less
    assert forecast.reaches(signs(4.0)) and not forecast.reaches(signs(4.1))


def test_a_forecast_does_without_signs_that_need_batch_norm() -> None:
    forecast = fit_forecast(rehearsed(moved=float("nan")))
    assert forecast.miou(signs(2.0, float("nan"))) == pytest.approx(0.57, abs=0.03)


def test_a_forecast_wants_enough_rehearsals() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        fit_forecast(rehearsed(7))


def test_the_reach_of_a_fraction_grows_with_the_loss_expected() -> None:
    forecast = fit_forecast(rehearsed(40))
    reaches = [model_reach([forecast], [miou], 1, 0.95) for miou in (0.9, 0.7, 0.5)]
    assert reaches == sorted(reaches)
    # Errors are half of the loss, so a little less than half of it and of the forecast's error.
    assert reaches[2] == pytest.approx(0.5 * (0.4 + forecast.error), rel=0.25)
    held = [
        abs(own.fraction_errors[1]) <= model_reach([forecast], [forecast.miou(own.signs)], 1, 0.95)
        for own in rehearsed(40)
    ]
    assert np.mean(held) >= 0.95


def test_intervals_add_the_reach_to_the_sample() -> None:
    rng = np.random.default_rng(0)
    regions = [rng.random((64, 64)) < share for share in (0.3, 0.32, 0.28)]
    for near, far in (
        [domain_interval(regions, reach, 0.01, 0.95) for reach in (0.0, 0.2)],
        [image_interval(regions[0], reach, 0.01, 0.95) for reach in (0.0, 0.2)],
    ):
        assert 0 <= far.low < near.low < near.value < near.high < far.high <= 1
        assert far.high - far.value == pytest.approx(np.hypot(near.high - near.value, 0.2))
    nothing = image_interval(np.zeros((64, 64), bool), 0.2, 0.0, 0.95)
    assert (nothing.value, nothing.low) == (0, 0) and nothing.high == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("miou", "adapted", "reached", "advice"),
    [
        (0.86, 0.5, True, "trust"),
        (0.86, 0.5, False, "label"),  # never rehearsed, and new statistics do not help
        (0.70, 0.81, True, "adapt"),
        (0.70, 0.79, True, "label"),
        (0.81, None, True, "adapt"),
        (0.79, None, True, "label"),
    ],
)
def test_verdicts(miou: float, adapted: float | None, reached: bool, advice: str) -> None:
    assert decide(Expected(0.9, miou, adapted, 0.02, reached), 0.05) == advice


def test_opinions_that_agree_have_no_disagreement() -> None:
    sure = np.stack([np.ones((4, 4)), np.zeros((4, 4))]).astype(np.float32)
    assert disagreement([sure, sure]) == 0
    assert disagreement([sure, sure[::-1].copy()]) == pytest.approx(1)
    unsure = np.full((2, 4, 4), 0.5, np.float32)
    assert disagreement([unsure, unsure]) == 0  # they agree that they do not know


def test_encoders_without_batch_norm_show_the_other_signs(config: AdaptConfig) -> None:
    data = read_data(config)
    torch.manual_seed(0)
    model = adaptable(create_model("Unet", "vgg11", 2))
    segmenter = Segmenter(model, IMAGENET_MEAN, IMAGENET_STD, torch.device("cpu"))
    view = view_source(segmenter, data.study, data.train[:2], data.val[:1], 4)
    look = next(look_at(view, data.val[:1]))
    assert np.isnan(look.signs.batchnorm)
    assert look.signs.features > 0 and look.signs.turns > 0


@pytest.fixture(scope="session")
def runs(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Both folds of the toy source, hardly trained."""
    folder = tmp_path_factory.mktemp("transfer")
    for fold in (0, 1):
        adapt(
            AdaptConfig(
                study=toy,
                method="source_only",
                run_dir=folder / f"fold{fold}",
                fold=fold,
                network="Unet",
                arch=SMALL_ARCH,
                batch_size=2,
                steps=12,
                warmup_steps=0,
                lr=1e-3,
                optimizer="adam",
                augmentation="basic",
                threads=1,
            )
        )
    return [folder / "fold0", folder / "fold1"]


@pytest.fixture(scope="session")
def observers(runs: list[Path]) -> list[Observer]:
    return open_observers(runs, 8, 0, 4)


def test_a_report_uses_no_label_of_a_target(observers: list[Observer]) -> None:
    images = target_images(study_of(observers), "faded")
    assert [image.mask is None for image in images] == [True] * 4 + [False] * 2
    found = report_domain("faded", observers, images, 0.05, 0.95)
    blind = [replace(image, mask=None, native_mask=None) for image in images]
    without = report_domain("faded", observers, blind, 0.05, 0.95)
    assert found.checked is not None and found.checked.images == 2
    assert without.checked is None
    for name in ("signs", "disagreement", "fractions", "expected", "verdict"):
        assert getattr(found, name) == getattr(without, name)
    assert found.disagreement is not None and found.disagreement > 0
    for interval in found.fractions:
        assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_another_detector_is_farther_than_new_specimens(observers: list[Observer]) -> None:
    """`turned` is inverted back: images as the source's own."""
    found = {}
    for name in ("faded", "turned"):
        images = target_images(study_of(observers), name)[:2]
        found[name] = report_domain(name, observers[:1], images, 0.05, 0.95)
    assert found["turned"].disagreement is None  # one run has nobody to disagree with
    assert found["turned"].signs.batchnorm < 2 < found["faded"].signs.batchnorm
    assert found["turned"].expected.miou > found["faded"].expected.miou


def test_the_program_writes_page_picture_and_tables(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(runs[0]), "--target", "turned", "--rehearsals", "8", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "advice" in printed and str(tmp_path / "transfer.md") in printed
    content = json.loads((tmp_path / "transfer.json").read_text())
    advice = content["targets"]["turned"]["advice"]
    assert f"## turned: {advice}" in (tmp_path / "transfer.md").read_text()
    assert len(content["targets"]["turned"]["images"]) == 6
    rows = list(csv.DictReader((tmp_path / "images.csv").read_text().splitlines()))
    assert [row["target"] for row in rows] == ["turned"] * 6
    with Image.open(tmp_path / "transfer.png") as picture:
        assert picture.width > 1000


def test_what_is_no_run_of_adapt_is_told(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs[0], copy)
    config = copy / "config.yaml"
    lines = config.read_text().splitlines()
    config.write_text("\n".join(line for line in lines if not line.startswith("study:")))
    for given, said in (
        ([str(tmp_path / "absent")], "give the --run-dir of downstream.adapt"),
        ([str(copy)], "names no study"),
        ([str(runs[0]), "--target", "fadd"], "fadd"),
        ([str(runs[0]), "--study", str(tmp_path / "gone.yaml")], "gone.yaml"),
        (["--target", "faded"], "runs"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*given, "--rehearsals", "8"])
        assert stop.value.code == 2
        assert said in capsys.readouterr().err


def test_runs_of_two_studies_are_refused(
    runs: list[Path], toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, other = tmp_path / "copy", tmp_path / "other.yaml"
    shutil.copytree(runs[1], copy)
    other.write_text(toy.read_text().replace("scale: 1.0", "scale: 0.5"))
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace(str(toy), str(other)))
    with pytest.raises(SystemExit):
        main([str(runs[0]), str(copy)])
    assert "studies that differ (other, toy)" in capsys.readouterr().err


def test_a_study_that_moved_is_asked_for(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs[0], copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("toy.yaml", "moved.yaml"))
    with pytest.raises(SystemExit):
        main([str(copy)])
    assert "--study" in capsys.readouterr().err
