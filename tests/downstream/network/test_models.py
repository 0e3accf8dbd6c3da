"""Every way to load a published encoder gives the weights that were trained, or says why not."""

from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from pictures import write_noise
from safetensors.torch import load_file
from torch import nn

from downstream.network.models import create_model
from micrograph.cli import UserError
from pretrain.cards.encoder_card import ENCODER_NAME, read_card
from pretrain.cards.usage import snippets
from pretrain.export.publishing import publish
from pretrain.registry.storage.pull import pull
from pretrain.train import main as train
from shards.write import WriteConfig, write_shards

NAME = "mobilenet_v2.micronet"
ENCODER = "features.18.0.weight"  # its last convolution


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one encoder, trained for an epoch."""
    work = tmp_path_factory.mktemp("work")
    write_noise(work / "images", ("austenite", "bainite"), per_class=10, side=48)
    shards = str(work / "shards")
    write_shards(WriteConfig(source=str(work / "images"), out=shards, workers=1, report=False))
    train(
        f"--arch mobilenet_v2 --shards {shards} --run-dir {work / 'run'} --image-size 32 "
        "--batch-size 8 --epochs 1 --lr 0.01 --threads 1".split()
    )
    publish(work / "run", "micronet", str(work / "registry"), not_converged=True)
    return work / "registry"


@pytest.fixture(autouse=True)
def user(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROGRAPH_REGISTRY", str(registry))


def encoder_of(model: nn.Module) -> Any:
    return model.encoder


@pytest.mark.parametrize("decoder", ["Unet", "UnetPlusPlus", "DeepLabV3Plus"])
def test_a_name_gives_a_segmenter_with_the_trained_encoder(decoder: str) -> None:
    model = create_model(decoder, NAME, classes=3)
    assert type(model) is getattr(smp, decoder)
    trained = load_file(pull(NAME) / ENCODER_NAME)
    loaded = encoder_of(model).state_dict()
    assert loaded.keys() == trained.keys()
    assert all(torch.equal(loaded[name], trained[name]) for name in trained)


@pytest.mark.parametrize("way", ["here", "smp", "timm", "torch"])
def test_the_lines_of_the_model_card_load_it(way: str, registry: Path) -> None:
    folder = registry / NAME / "1"
    code = snippets(read_card(folder), NAME)[way]
    assert code in (folder / "README.md").read_text() or way == "torch"
    names: dict[str, Any] = {"folder": folder}
    exec(code, names)
    trained = load_file(folder / ENCODER_NAME)[ENCODER]
    if way == "torch":
        found = names["tensors"][ENCODER]
    elif way == "timm":
        found = names["model"].conv_head.weight
    else:
        found = names["model"].encoder.state_dict()[ENCODER]
    assert torch.equal(found, trained)


def test_a_path_and_another_registry_are_taken_too(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MICROGRAPH_REGISTRY")
    expected = encoder_of(create_model("Unet", registry / NAME / "1", classes=2)).state_dict()[
        ENCODER
    ]
    by_name = create_model("Unet", f"{NAME}@1", classes=2, registry=str(registry))
    assert torch.equal(encoder_of(by_name).state_dict()[ENCODER], expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenet_v2.micronett", "nearest is 'mobilenet_v2.micronet'"),
        ("mobilenet_v2.micronet@7", "of mobilenet_v2.micronet it has version 1"),
        ("mobilenetv2", "nearest arch is 'mobilenet_v2'"),
    ],
)
def test_a_wrong_name_names_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        create_model("Unet", name, classes=3)
    assert message in str(error.value)


def test_an_archs_name_gives_random_weights(registry: Path) -> None:
    loaded = encoder_of(create_model("Unet", "mobilenet_v2", classes=3)).state_dict()
    trained = load_file(registry / NAME / "1" / ENCODER_NAME)
    assert loaded.keys() == trained.keys()
    assert not torch.equal(loaded[ENCODER], trained[ENCODER])
