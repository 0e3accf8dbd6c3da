"""A saved DeepLabV2 is a segmenter like any other: loaded, applied and explained from its card."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bars import below, drawn_bar, drawn_micrograph
from PIL import Image
from safetensors.torch import save_file

from downstream import explain, predict
from downstream.adaptation.methods.batchnorm import export_state, set_bn_mode
from downstream.images.prepared import prepared_reader
from downstream.images.scan import array_reader
from downstream.network.models import create_model
from downstream.network.segmenter import load_segmenter
from micrograph.cli import UserError
from pretrain.cards.segmenter_card import (
    SCHEMA_VERSION,
    SegmenterCard,
    read_segmenter_card,
    write_segmenter_card,
)
from pretrain.runs.run_folder import RunPaths
from shards.shard_format.schema import IMAGENET_MEAN, IMAGENET_STD, file_sha256

PUBLISHED = {"dilations": [6, 12], "aux": True, "one_logit": False}


def save_run(folder: Path, decoder: str = "DeepLabV2", **options: Any) -> torch.nn.Module:
    """A random network as a finished run leaves it."""
    torch.manual_seed(0)
    model = create_model(decoder, "resnet18", 2, decoder_options=options).eval()
    set_bn_mode(model, "domain")
    folder.mkdir()
    paths = RunPaths(folder)
    save_file(export_state(model), paths.best)
    card = SegmenterCard(
        schema_version=SCHEMA_VERSION,
        decoder=decoder,
        decoder_options=options,
        arch="resnet18",
        encoder_options={},
        init="random",
        encoder_sha256="",
        classes=("ground=0", "phase=255"),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        crop_size=64,
        orientation="any",
        micro_iou_classes="all",
        converged=True,
        collapse="",
        metrics={},
        sources=(),
        config={},
        versions={},
        sha256=file_sha256(paths.best),
    )
    write_segmenter_card(folder, card)
    return model


@pytest.mark.parametrize("options", [{}, PUBLISHED])
def test_the_card_suffices_to_load_the_network(options: dict[str, Any], tmp_path: Path) -> None:
    model = save_run(tmp_path / "run", **options)
    loaded = load_segmenter(tmp_path / "run", torch.device("cpu"))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():  # memory formats differ
        assert torch.allclose(loaded.model(images), model(images), atol=1e-3)


def test_it_predicts_and_explains_images_of_any_size(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    pixels = np.random.default_rng(0).integers(0, 256, (75, 101), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    flags = [str(tmp_path / "run"), str(tmp_path / "image.png"), "--out"]
    few = ["--tile", "64", "--overlap", "32", "--threads", "1", "--tta"]
    predict.main([*flags, str(tmp_path / "out"), *few])
    with Image.open(tmp_path / "out" / "image.png") as mask:
        assert mask.size == (101, 75)
    explain.main([*flags, str(tmp_path / "heat")])
    assert (tmp_path / "heat" / "image.png").is_file()


def test_an_image_is_explained_as_the_network_sees_it(tmp_path: Path) -> None:
    save_run(tmp_path / "plain", "Unet")
    card = read_segmenter_card(tmp_path / "plain")
    preparation = {"scale": 0.5, "invert": True, "crop_bar": False}
    shutil.copytree(tmp_path / "plain", tmp_path / "adapted")
    write_segmenter_card(tmp_path / "adapted", replace(card, preparation=preparation))
    pixels = np.random.default_rng(0).integers(0, 256, (150, 202, 3), np.uint8)
    by_hand = prepared_reader(array_reader("x", pixels), preparation)
    assert by_hand.shape == (75, 101)
    for name, image in (("native", pixels), ("prepared", by_hand.rows(0, 75))):
        (tmp_path / name).mkdir()
        Image.fromarray(image).save(tmp_path / name / "image.png")
    found = [
        np.asarray(explain.explain(load_segmenter(tmp_path / run), tmp_path / name / "image.png"))
        for run, name in (("adapted", "native"), ("plain", "prepared"), ("plain", "native"))
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_in_python_images_are_prepared_as_by_the_program(tmp_path: Path) -> None:
    save_run(tmp_path / "run", "Unet")
    card = read_segmenter_card(tmp_path / "run")
    preparation = {"scale": 0.4, "invert": True, "crop_bar": True}
    write_segmenter_card(tmp_path / "run", replace(card, preparation=preparation))
    pixels, bar = below(drawn_micrograph(0), drawn_bar(40, 0, 255))
    Image.fromarray(pixels).save(tmp_path / "image.png")
    flags = ["--tile", "512", "--overlap", "64", "--threads", "1"]
    predict.main([str(tmp_path / "run"), str(tmp_path / "image.png"), "--out",
                  str(tmp_path / "out"), *flags])  # fmt: skip
    with Image.open(tmp_path / "out" / "image.png") as mask:
        wanted = np.asarray(mask)
    found = load_segmenter(tmp_path / "run", torch.device("cpu")).predict(pixels)
    assert found.shape == (bar.row, pixels.shape[1])
    np.testing.assert_array_equal(np.array([0, 255])[found], wanted)
    assert 0 < found.mean() < 1


def test_an_image_that_is_too_small_when_prepared_is_reported(tmp_path: Path) -> None:
    save_run(tmp_path / "run", "Unet")
    card = read_segmenter_card(tmp_path / "run")
    write_segmenter_card(tmp_path / "run", replace(card, preparation={"scale": 0.5}))
    pixels = np.random.default_rng(0).integers(0, 256, (62, 96), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    with pytest.raises(UserError, match=r"too small to be explained: 48 x 31 pixels"):
        explain.explain(load_segmenter(tmp_path / "run"), tmp_path / "image.png")
