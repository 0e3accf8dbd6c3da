"""Recommending encoders: the probe sees what it should, doubts what it should, and says so."""

import io
import json
import math
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from downstream.finetune.config import SegmentConfig
from downstream.probing.candidates import Candidate
from downstream.probing.features import hypercolumns
from downstream.probing.folds import read_folds
from downstream.probing.ranking import paired_interval, rank_candidates
from downstream.recommend import main
from downstream.segment import main as segment_main
from micrograph.cli import EXIT_USER_ERROR
from micrograph.literature_values import read_published

ARCH = "resnet18"


@pytest.fixture(scope="module")
def found(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    out = tmp_path_factory.mktemp("out")
    main([str(textures), "--encoders", "mobilenet_v2", ARCH, "--out", str(out), "--threads", "1"])
    content: dict[str, object] = json.loads((out / "recommend.json").read_text())
    return content


def test_a_probe_of_frozen_features_distinguishes_textures(
    found: dict[str, object],
) -> None:
    ranked = found["ranked"]
    assert isinstance(ranked, list)
    assert {entry["encoder"] for entry in ranked} == {"random mobilenet_v2", f"random {ARCH}"}
    assert [len(entry["folds"]) for entry in ranked] == [4, 4]
    assert ranked[0]["micro_iou"] > 0.8  # a constant answer gives 0.33
    assert ranked[0]["micro_iou"] >= ranked[1]["micro_iou"]
    assert found["gain_over_control"] is None  # the best is random itself


@pytest.fixture(scope="module")
def alone(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What one of the encoders gives by itself: the folder, and what is printed."""
    out, printed = tmp_path_factory.mktemp("alone"), io.StringIO()
    with redirect_stdout(printed):
        main([str(textures), "--encoders", ARCH, "--out", str(out), "--threads", "1"])
    return out, printed.getvalue()


def test_the_same_probe_gives_the_same_numbers(
    found: dict[str, object], alone: tuple[Path, str]
) -> None:
    again = json.loads((alone[0] / "recommend.json").read_text())["ranked"]
    ranked = found["ranked"]
    assert isinstance(ranked, list)
    expected = next(entry for entry in ranked if entry["encoder"] == again[0]["encoder"])
    assert again[0]["folds"] == expected["folds"]


def test_the_printed_command_runs(
    alone: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = alone[1]
    assert "4 labelled images, 4 folds" in printed
    assert "Random weights did best" in printed
    command = shlex.split(printed.strip().splitlines()[-1])
    assert command[:3] == ["python", "-m", "downstream.segment"]
    monkeypatch.chdir(tmp_path)
    segment_main([*command[3:], "--max-epochs", "1", "--stage2-lr", "none", "--threads", "1"])
    assert (tmp_path / "runs" / f"random-{ARCH}" / "results.json").is_file()


def test_one_image_is_cut_into_quarters_with_a_warning(
    textures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for part in ("images", "masks"):
        (tmp_path / part / "0.png").write_bytes((textures / part / "0.png").read_bytes())
    data = read_folds(SegmentConfig(data=tmp_path))
    assert data.folds == ((0,), (1,), (2,), (3,))
    assert not data.specimens
    assert "the only labelled image" in capsys.readouterr().err
    whole = np.asarray(Image.open(tmp_path / "masks" / "0.png"))
    parts = [item.mask for item in data.items]
    assert np.array_equal(np.block([parts[:2], parts[2:]]), whole)


def test_images_of_one_specimen_are_in_one_fold(squares: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name in ("s1_01", "s1_02", "s2_01", "s2_02"):
        for source, part in (("train", "images"), ("train_annot", "masks")):
            content = (squares / source / "train0.png").read_bytes()
            (tmp_path / part / f"{name}.png").write_bytes(content)
    data = read_folds(SegmentConfig(data=tmp_path))
    names = [sorted(data.items[i].name[:2] for i in fold) for fold in data.folds]
    assert sorted(names) == [["s1", "s1"], ["s2", "s2"]]
    assert data.specimens


class Coordinates(nn.Module):
    """An encoder whose maps hold their own pixel's place, at strides 1 and 4."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        rows = torch.arange(images.shape[2]).float()[:, None].expand(images.shape[2:])
        places = (rows * self.scale)[None, None]
        return [places, nn.functional.avg_pool2d(places, 4)]


def test_features_are_taken_at_their_pixel_in_every_window() -> None:
    # Two windows of 350 rows; the second map's pixels lie between those of the image.
    pixels = np.zeros((700, 40, 3), np.uint8)
    rows = np.array([3, 100, 349, 350, 353, 690])
    positions = np.stack([rows, np.full_like(rows, 7)], 1)
    found = hypercolumns(Coordinates(), Candidate("c", ARCH, "random"), pixels, positions)
    assert found[:, 0] == pytest.approx(rows % 350, abs=1e-3)
    inner = [0, 1, 4, 5]  # at a window's edge there is no neighbour to go between
    assert found[inner, 1] == pytest.approx(rows[inner] % 350, abs=1e-3)


def test_an_interval_widens_for_shared_training_images() -> None:
    # By hand: differences 1, 2, 3: mean 2, variance 1, times 1/3 + 1/2; t(0.975, 2) = 4.3027.
    interval = paired_interval([3, 5, 7], [2, 3, 4])
    half = 4.302653 * math.sqrt(5 / 6)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((2, 2 - half, 2 + half))


def test_only_significantly_worse_encoders_are_not_worth_a_try() -> None:
    ranked = rank_candidates(
        {
            "worse": [0.1, 0.11, 0.1, 0.12],
            "best": [0.7, 0.72, 0.71, 0.73],
            "near": [0.9, 0.5, 0.6, 0.7],
        }
    )
    assert [item.name for item in ranked] == ["best", "near", "worse"]
    assert [item.worth_a_try for item in ranked] == [True, True, False]


def test_the_note_on_decoders_agrees_with_paper_a() -> None:
    printed = read_published("paper_a").query("table == '3'")
    ious = printed.pivot(index="experiment", columns="name", values="value")
    assert ious[["Unet", "UnetPlusPlus"]].notna().sum().tolist() == [7, 7]
    assert ((ious.Unet - ious.UnetPlusPlus).abs() <= 0.02).all()
    linknet = ious.dropna(subset=["Linknet"])
    assert (linknet.Linknet < linknet[["Unet", "UnetPlusPlus"]].min(axis=1)).all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--encoders", "resnet18x"], "no encoder 'resnet18x'"),
        ([], "no encoders to try; give --encoders"),
        (["--encoders", ARCH, "--folds", "5"], "into 5 folds"),
    ],
)
def test_mistakes_are_one_line(
    more: list[str],
    message: str,
    textures: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MICROGRAPH_REGISTRY", raising=False)
    with pytest.raises(SystemExit) as end:
        main([str(textures), *more])
    assert end.value.code == EXIT_USER_ERROR
    assert message in capsys.readouterr().err
