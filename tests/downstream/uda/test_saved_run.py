"""A saved DeepLabV2 is a segmenter like any other: loaded, applied and explained from its card."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from downstream import explain, predict
from downstream.models import create_model
from downstream.seg.run_folder import RunPaths
from downstream.seg.segmenter import load_segmenter
from downstream.uda.batchnorm import export_state, set_bn_mode
from pretrain.segmenter_card import SCHEMA_VERSION, SegmenterCard, write_segmenter_card
from shards.schema import IMAGENET_MEAN, IMAGENET_STD, file_sha256

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
        micro_over="all",
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
def test_the_card_tells_all_that_is_needed_to_load(options: dict[str, Any], tmp_path: Path) -> None:
    model = save_run(tmp_path / "run", **options)
    loaded = load_segmenter(tmp_path / "run", torch.device("cpu"))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(
            loaded.model(images), model(images), atol=1e-3
        )  # memory formats differ


def test_it_predicts_and_explains_images_of_any_size(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    pixels = np.random.default_rng(0).integers(0, 256, (75, 101), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    flags = [str(tmp_path / "run"), str(tmp_path / "image.png"), "--out"]
    few = ["--tile", "64", "--overlap", "32", "--threads", "1", "--views"]
    predict.main([*flags, str(tmp_path / "out"), *few])
    with Image.open(tmp_path / "out" / "image.png") as mask:
        assert mask.size == (101, 75)
    explain.main([*flags, str(tmp_path / "heat")])
    assert (tmp_path / "heat" / "image.png").is_file()


def test_cards_from_before_decoder_options_still_load(tmp_path: Path) -> None:
    save_run(tmp_path / "run", "Unet")
    path = RunPaths(tmp_path / "run").card
    content = json.loads(path.read_text())
    del content["decoder_options"]
    path.write_text(json.dumps(content))
    card = load_segmenter(tmp_path / "run", torch.device("cpu")).card
    assert card is not None and card.decoder_options == {}
