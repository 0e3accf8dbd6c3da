"""The settings of a run, and every recipe that ships."""

from pathlib import Path

import pytest
from checkout import ROOT

from downstream.finetune.config import SegmentConfig
from micrograph.cli import UserError
from micrograph.settings import build_config, load_config, read_recipe
from pretrain.config import TrainConfig

CONFIGS = ROOT / "configs"


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "pretrain").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_pretrain_recipe_loads(path: Path) -> None:
    build_config(TrainConfig, {"arch": "resnet18", **read_recipe(path)})


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "downstream").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_downstream_recipe_loads(path: Path) -> None:
    build_config(SegmentConfig, {"data": "somewhere", **read_recipe(path)})


def test_the_defaults_are_paper_as() -> None:
    config = load_config(TrainConfig, ["--arch", "efficientnet-b4"])
    assert (config.lr, config.momentum, config.weight_decay) == (0.1, 0.9, 1e-4)
    assert (config.batch_size, config.patience, config.image_size) == (1024, 30, 224)
    assert (config.lr_decay, config.lr_decay_epochs, config.init) == (0.9, 30, "random")
    assert config.run_folder == Path("runs/efficientnet-b4.random")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arch", "resnet19"], "nearest is 'resnet18'"),
        (["--arch", "resnet18", "--epoch", "3"], "nearest is '--epochs'"),
        (["--arch", "resnet18", "--epochs", "many"], "'epochs' must be a whole number"),
        (["--arch", "vgg11", "--image-size", "31"], "image_size 31 is under vgg11's 32 pixels"),
        (["--arch", "resnet18", "--lr", "-1"], "'lr' must be above 0"),
        (["--arch", "resnet18", "--hflip-prob", "2"], "'hflip_prob' must be from 0 to 1"),
        ([], "missing --arch"),
    ],
)
def test_a_wrong_setting_is_named(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(TrainConfig, flags)
