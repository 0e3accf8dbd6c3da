"""Fine-tuning on a few labelled images, from random weights and from an export."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from downstream.dataset import LabelledImage
from downstream.models import create_model
from downstream.segment import Segmenter, main
from shards.cli import EXIT_USER_ERROR, UserError
from shards.schema import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright squares on a dark ground."""
    folder = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in (split, f"{split}_annot"):
            (folder / name).mkdir()
        for number in range(2):
            mask = np.zeros((64, 80), np.uint8)
            top, left = rng.integers(0, 32, 2)
            mask[top : top + 28, left : left + 28] = 1
            image = 60 + 120 * mask + rng.integers(0, 20, mask.shape)
            Image.fromarray(image.astype(np.uint8)).save(folder / split / f"{number}.png")
            Image.fromarray(mask).save(folder / f"{split}_annot" / f"{number}.png")
    return folder


def flags(data: Path, run: Path, *more: str) -> list[str]:
    base = ["--data", str(data), "--run-dir", str(run), "--crop-size", "64", "--batch-size", "4"]
    return [*base, "--steps", "30", "--validate-every-steps", "10", "--lr", "1e-3", *more]


def test_it_learns_squares_and_writes_masks(data: Path, tmp_path: Path) -> None:
    main(flags(data, tmp_path / "run"))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["classes"] == ["class0", "class1"]
    assert results["test"]["miou"] > 0.9
    mask = np.asarray(Image.open(tmp_path / "run" / "masks" / "0.png"))
    assert mask.shape == (64, 80)
    assert set(np.unique(mask)) <= {0, 1}


def test_the_same_command_gives_the_same_scores(data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        main(flags(data, tmp_path / name, "--steps", "10"))
    a, b = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("a", "b"))
    assert a == b


def test_any_image_size_gets_a_mask_of_its_size() -> None:
    segmenter = Segmenter(
        create_model("Unet", "resnet18", 2), IMAGENET_MEAN, IMAGENET_STD, torch.device("cpu")
    )
    pixels = np.zeros((45, 70, 3), np.uint8)
    mask = segmenter.predict(LabelledImage("x", pixels, np.zeros((45, 70), np.int64)))
    assert mask.shape == (45, 70)


def test_a_decoder_that_dilates_refuses_an_encoder_that_cannot() -> None:
    with pytest.raises(UserError, match="DeepLabV3Plus dilates its encoder, which vgg11 cannot"):
        create_model("DeepLabV3Plus", "vgg11", 2)


def test_an_encoder_that_is_neither_name_nor_folder_is_named() -> None:
    with pytest.raises(UserError, match="no encoder 'resnet18x'"):
        create_model("Unet", "resnet18x", 2)


def test_bad_data_is_one_line_and_a_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--data", str(tmp_path / "absent")])
    assert end.value.code == EXIT_USER_ERROR
    assert capsys.readouterr().err.startswith("error: no such folder")
