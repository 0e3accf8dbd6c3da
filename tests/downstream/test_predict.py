"""Prediction with real runs: masks, restarts, ensembles, calibration, mistakes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from networks import SMALL_ARCH
from PIL import Image

from downstream import calibrate, measure, predict, segment
from downstream.inference.ensemble import Ensemble, Member, entropy, tta_views
from downstream.inference.legend import build_legend
from downstream.inference.mask_writer import MaskWriter
from downstream.labels.classes import parse_classes
from downstream.labels.masks import mask_to_indices, read_mask
from downstream.network.segmenter import Segmenter, load_segmenter
from downstream.reliability.calibration import fit_temperature, reliability
from micrograph.cli import EXIT_USER_ERROR
from shards.shard_format.schema import IMAGENET_MEAN, IMAGENET_STD

FEW = ["--tile", "64", "--overlap", "32", "--threads", "1"]


@pytest.fixture(scope="module")
def runs(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs on the squares, the first with its calibration."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--data", str(squares), "--crop-size", "64", "--batch-size", "4", "--threads", "1"]
    flags += ["--samples-per-epoch", "32", "--max-epochs", "2", "--stage2-lr", "none"]
    flags += ["--augmentation", "basic", "--lr", "2e-3", "--balance", "none", "--arch", SMALL_ARCH]
    for seed in ("0", "1"):
        segment.main([*flags, "--run-dir", str(folder / seed), "--seed", seed])
    calibrate.main([str(folder / "0"), "--threads", "1"])
    return folder / "0", folder / "1"


def field(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A bright square as in training, on a larger ground."""
    rng = np.random.default_rng(0)
    image = 60 + rng.integers(0, 20, (height, width))
    image[40:68, 70:98] += 120
    return image.astype(np.uint8)


def values_of(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_large_image_gets_a_mask_of_its_size_and_all_requested_outputs(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "large.tif", field(150, 203), compression="zlib")
    out = tmp_path / "out"
    flags = ["--out", str(out), *FEW, "--uncertainty", "--probabilities", "--tta"]
    predict.main([*map(str, runs), str(tmp_path / "large.tif"), *flags])
    mask = values_of(out / "large.png")
    truth = np.zeros((150, 203), bool)
    truth[40:68, 70:98] = True
    assert mask.shape == (150, 203) and set(np.unique(mask)) <= {0, 1}
    assert ((mask == 1) & truth).sum() / ((mask == 1) | truth).sum() > 0.5  # two epochs of training
    probabilities = np.load(out / "probabilities" / "large.npy")
    np.testing.assert_array_equal(probabilities.argmax(0), mask)
    np.testing.assert_allclose(probabilities.astype(float).sum(0), 1, atol=2e-3)
    record = json.loads((out / "records" / "large.json").read_text())
    assert record["fractions"][1] == pytest.approx((mask == 1).mean())
    assert np.shape(record["member_fractions"]) == (2, 2)
    assert np.sum(record["member_fractions"], 1) == pytest.approx([1, 1])
    for name in ("entropy", "disagreement", "overlays"):
        assert (out / name / "large.png").is_file()
    left = {path.name for path in out.rglob(".*")}
    assert not left  # no partial files
    measure.main([str(out), "--out", str(tmp_path / "measured")])
    assert (tmp_path / "measured" / "fractions.csv").read_text().count("class1") == 2


def test_finished_images_are_skipped_until_something_changes(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a", "b"):
        Image.fromarray(field(100, 130)).save(images / f"{name}.png")
    (images / "c.png").write_bytes(b"no image")
    command = [str(runs[1]), str(images), "--out", str(tmp_path / "out"), *FEW]
    with pytest.raises(SystemExit):
        predict.main(command)
    said = capsys.readouterr().err
    assert "1 of 3 images failed; the first: cannot read" in said
    (images / "c.png").unlink()
    times = [path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")]
    predict.main(command)
    assert "2 of 2 were already done" in capsys.readouterr().err
    assert [p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.png")] == times
    Image.fromarray(field(100, 131)).save(images / "a.png")
    predict.main(command)
    assert "1 of 2 were already done" in capsys.readouterr().err
    predict.main([*command, "--tta"])
    assert "already done" not in capsys.readouterr().err
    assert values_of(tmp_path / "out" / "a.png").shape == (100, 131)


def test_the_whole_image_and_its_tiles_agree_where_nothing_is_cut(runs: tuple[Path, Path]) -> None:
    segmenter = load_segmenter(runs[0])
    pixels = np.repeat(field(64, 96)[..., None], 3, axis=2)
    whole = segmenter.probabilities(pixels).numpy()
    ensemble = Ensemble([Member(segmenter)], 2)
    tiles = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    maps = ensemble(tiles, np.ones((1, 64, 96), np.float32))[0]
    np.testing.assert_allclose(maps[:2], whole, atol=1e-6)
    assert ensemble.fractions[0] == pytest.approx(whole.mean((1, 2)), abs=1e-5)


def test_an_image_unlike_the_labelled_ones_causes_a_warning(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(field(64, 128)).save(tmp_path / "alike.png")
    y, x = np.mgrid[:128, :128]
    stripes = (128 + 127 * np.sin(x / 2 + y / 3)).astype(np.uint8)
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    predict.main([str(runs[0]), str(tmp_path), "--out", str(tmp_path / "out"), *FEW])
    said = " ".join(capsys.readouterr().err.split())
    assert "stripes.png: is unlike the labelled images" in said
    scores = {
        name: json.loads((tmp_path / "out" / "records" / f"{name}.json").read_text())["ood_score"]
        for name in ("alike", "stripes")
    }
    assert scores["stripes"] > 2 * scores["alike"]


@pytest.mark.parametrize("orientation", ["any", "hflip"])
def test_each_tta_view_is_undone(orientation: str) -> None:
    image = torch.rand(1, 3, 8, 8)
    views = tta_views(orientation)
    transformed = [view.apply(image) for view in views]
    assert len({one.numpy().tobytes() for one in transformed}) == (8 if orientation == "any" else 2)
    for one, view in zip(transformed, views, strict=True):
        torch.testing.assert_close(view.undo(one), image)


def test_with_tta_the_prediction_rotates_with_the_image() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 2, 5, padding=2)
    segmenter = Segmenter(network, IMAGENET_MEAN, IMAGENET_STD, torch.device("cpu"))
    ensemble = Ensemble([Member(segmenter)], 2, tta_views("any"))
    tile = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    ones = np.ones((1, 32, 32), np.float32)
    turned = ensemble(torch.rot90(tile, 1, (2, 3)), ones)
    np.testing.assert_allclose(turned, np.rot90(ensemble(tile, ones), 1, (2, 3)), atol=1e-6)


def test_the_entropy_of_equal_probabilities_is_one() -> None:
    flat, sure = torch.full((1, 3, 1, 1), 1 / 3), torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    assert float(entropy(flat)) == pytest.approx(1) and float(entropy(sure)) == 0


def test_members_that_differ_disagree_more_than_they_doubt() -> None:
    """Two members, each sure, of opposite classes: all of the entropy is disagreement."""

    class Says(torch.nn.Module):
        def __init__(self, sign: float) -> None:
            super().__init__()
            self.sign = torch.nn.Parameter(torch.tensor(sign))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            one = torch.ones_like(x[:, :1]) * self.sign
            return torch.cat([one, -one], 1)

    members = [
        Member(Segmenter(Says(sign), IMAGENET_MEAN, IMAGENET_STD, torch.device("cpu")))
        for sign in (20.0, -20.0)
    ]
    maps = Ensemble(members, 2)(
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8), np.ones((1, 32, 32), np.float32)
    )
    assert maps[0, :2] == pytest.approx(0.5)  # a mean of logits would say the same, but
    assert maps[0, 2] == pytest.approx(0, abs=1e-6)  # neither member doubts


def test_a_temperature_makes_overconfident_probabilities_true() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1.5, (40_000, 2))
    chance = np.exp(truth) / np.exp(truth).sum(1, keepdims=True)
    labels = (rng.random(40_000) < chance[:, 1]).astype(np.int64)
    boasting = torch.log_softmax(torch.from_numpy(3 * truth), 1).float().numpy()
    temperature = fit_temperature(boasting, labels)
    assert temperature == pytest.approx(3, rel=0.05)
    before, after = reliability(boasting, labels), reliability(boasting, labels, temperature)
    assert before.ece > 0.08 and after.ece < 0.01 and after.nll < before.nll
    assert before.share.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "specs",
    [
        ("rest=rest", "oxide=1"),
        ("a=0", "b=255"),
        ("a=1", "b=rest", "c=0"),
        ("m=rest", "s=#0000ff", "t=#ff0000"),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_predicted_mask_means_the_same_to_training(
    tmp_path: Path, specs: tuple[str, ...], suffix: str
) -> None:
    classes = parse_classes(specs)
    legend = build_legend(classes)
    labels = np.random.default_rng(0).integers(0, len(classes), (40, 50))
    with MaskWriter(tmp_path / f"m{suffix}", 40, 50, legend.palette) as writer:
        writer.add(legend.values[labels])
        writer.finish()
    read = mask_to_indices(read_mask(tmp_path / f"m{suffix}"), classes)
    np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent", "--out", "o"], "is not the folder of a finished run"),
        (["RUN", "absent.tif", "--out", "o"], "'absent.tif' is neither an image"),
        (["RUN", "IMAGE", "--out", "o", "--tile", "100"], "tile must be a multiple of 32"),
        (["RUN", "IMAGE", "--out", "o", "--overlap", "600"], "overlap must be a multiple of 32"),
        (["RUN", "IMAGE", "TWIN", "--out", "o"], "have the same name a"),
        (["RUN", "IMAGE"], "missing --out"),
    ],
)
def test_user_errors_are_one_line(
    runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "a.tif"):
        Image.fromarray(field(64, 64 + 64)).save(tmp_path / name)
    named = {"RUN": str(runs[1]), "IMAGE": "a.png", "TWIN": "a.tif"}
    with pytest.raises(SystemExit) as exit_:
        predict.main([named.get(argument, argument) for argument in arguments])
    assert exit_.value.code == EXIT_USER_ERROR
    assert message in " ".join(capsys.readouterr().err.split())
