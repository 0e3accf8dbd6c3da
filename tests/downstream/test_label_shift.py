"""The label-shift experiment: sets of images with the requested fractions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from checkout import ROOT

from downstream import bainite, label_shift
from downstream.adapt import adapt
from downstream.adaptation.config import AdaptConfig
from downstream.domains.prepare import prepare_target
from downstream.domains.study import read_domain_study
from downstream.label_shift import choose_sets, nearest_mean, shifted_study
from micrograph.cli import UserError
from pretrain.cards.segmenter_card import read_segmenter_card, write_segmenter_card

CONFIGS = ROOT / "configs"
STUDY = CONFIGS / "downstream" / "domains" / "bainite-label-shift.yaml"

TRAIN = {f"train/{i}.png": i / 10 for i in range(10)}  # 0 to 90 %
TEST = {f"test/{i}.png": i / 10 for i in range(10)}


def test_two_training_sets_and_a_test_set_half_way() -> None:
    found = choose_sets(TRAIN, TEST, low=0.3, high=0.7, images=3, tests=2)
    assert found.low.names == ("train/2.png", "train/3.png", "train/4.png")
    assert found.high.names == ("train/6.png", "train/7.png", "train/8.png")
    assert (found.low.mean, found.high.mean) == pytest.approx((0.3, 0.7))
    assert abs(found.test.mean - 0.5) == pytest.approx(0.05)  # of two from tenths


def test_training_and_test_sets_are_disjoint() -> None:
    found = choose_sets(TRAIN, TRAIN, low=0.3, high=0.7, images=3, tests=2)
    assert not {*found.test.names} & {*found.low.names, *found.high.names}


@pytest.mark.parametrize(
    ("images", "tests", "high", "words"),
    [
        (6, 2, 0.7, "2 x 6 training images are needed, but there are 10"),
        (3, 11, 0.7, "11 labelled test images are needed, but there are 10"),
        (3, 2, 0.4, "would share 2 of 3 images: their fractions span 0% to 90%"),
        (3, 2, 0.2, "low must be below high"),
    ],
)
def test_impossible_sets_are_reported(images: int, tests: int, high: float, words: str) -> None:
    with pytest.raises(UserError, match=words):
        choose_sets(TRAIN, TEST, low=0.3, high=high, images=images, tests=tests)


def test_the_nearest_mean_is_of_neighbours_in_fraction() -> None:
    found = nearest_mean({"c": 0.9, "a": 0.1, "b": 0.4}, 2, 0.5)
    assert found.names == ("b", "c") and found.mean == pytest.approx(0.65)


def test_the_study_has_the_target_twice() -> None:
    content = {"name": "x", "targets": {"T2": {}, "T3": {"data": "T3", "invert": True}}}
    found = choose_sets(TRAIN, TEST, low=0.3, high=0.7, images=3, tests=2)
    targets = shifted_study(content, "T3", found)["targets"]
    assert list(targets) == ["T3", "T3v"]
    assert targets["T3v"]["train"] == list(found.low.names) and targets["T3v"]["invert"] is True
    assert targets["T3"]["test"] == targets["T3v"]["test"] == list(found.test.names)
    with pytest.raises(UserError, match="already has a target T3v"):
        shifted_study({"targets": targets}, "T3", found)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("label_shift") / "drawn"
    flags = ["--images", "5", "--target-images", "4", "--test-images", "2", "--label-shift"]
    bainite.main(["--out", str(out), *flags, "--size", "160", "224"])
    return out


def test_the_drawn_study_has_two_training_fractions_and_one_test_set(drawn: Path) -> None:
    study = read_domain_study(STUDY, drawn)

    test = {name: prepare_target(study, name).test for name in study.targets}
    assert [i.name for i in test["T3"]] == [i.name for i in test["T3v"]]
    assert len(test["T3"]) == 2 and all(i.native_mask is not None for i in test["T3"])
    train = {i.name for name in study.targets for i in prepare_target(study, name).train}
    assert len(train) == 8
    told = json.loads((drawn / "domains.json").read_text())["domains"]
    shares = [told[name]["bainite"] for name in ("T3", "T3v", "T3m")]
    assert shares == pytest.approx([0.53, 0.29, 0.41])
    assert {k: v for k, v in told["T3v"].items() if k != "bainite"} == {
        k: v for k, v in told["T3"].items() if k != "bainite"
    }


def test_a_run_creates_the_experiment_for_any_target(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    content = yaml.safe_load(STUDY.read_text()) | {"data": str(drawn)}
    content |= {"tile_core": 32, "context_margin": 8}
    content["targets"] = {"light": {"data": "T3", "pixel_size_nm": 126.6, "invert": True}}
    file.write_text(yaml.safe_dump(content))
    run = tmp_path / "run"
    adapt(
        AdaptConfig(
            study=file, method="source_only", network="Unet", arch="resnet18", steps=1,
            batch_size=2, augmentation="none", threads=1, warmup_steps=0, run_dir=run,
        )
    )  # fmt: skip
    made = tmp_path / "shifted.yaml"
    flags = ["--run", str(run), "--images", "2", "--tests", "2", "--out", str(made)]
    label_shift.main([str(file), "light", *flags, "--low", "0", "--high", "1"])
    assert "at their original scale" not in capsys.readouterr().err
    card = read_segmenter_card(run)
    config = {name: value for name, value in card.config.items() if name != "method"}
    write_segmenter_card(run, replace(card, config=config))  # as of downstream.segment
    label_shift.main([str(file), "light", *flags, "--low", "0", "--high", "1"])
    assert "light is scaled by 2.29" in " ".join(capsys.readouterr().err.split())
    study = read_domain_study(made)
    sets = {name: prepare_target(study, name) for name in study.targets}
    assert list(sets) == ["light", "lightv"]
    names = {name: {image.name for image in images.train} for name, images in sets.items()}
    assert not names["light"] & names["lightv"]
    for images in sets.values():
        assert len(images.test) == 2 and images.test[0].mask is not None
