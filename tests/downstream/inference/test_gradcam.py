"""Grad-CAM: the heat lies where the class is, for several output channels and for one."""

import numpy as np
import pytest
import torch
from torch import nn

from downstream.inference.gradcam import ClassScore, class_heat, encoder_layer, named_layer
from downstream.network.models import create_model
from micrograph.cli import UserError


class Threshold(nn.Module):
    """Brightness as a feature map; class 1 where it is above 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(2, channels, 1)
        with torch.no_grad():
            self.features[0].weight[:] = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
            self.features[0].bias.zero_()
            signs = [[1.0, -1.0]] if channels == 1 else [[-1.0, 1.0], [1.0, -1.0]]
            self.head.weight[:] = torch.tensor(signs).view(channels, 2, 1, 1)
            self.head.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("index", [0, 1])
def test_the_heat_lies_on_the_class(channels: int, index: int) -> None:
    network = Threshold(channels)
    image = -torch.ones(1, 3, 32, 32)
    image[:, :, 8:20, 4:16] = 1
    heat = class_heat(network, image, network.features, index)
    bright = image[0, 0].numpy() > 0
    on, off = (bright, ~bright) if index == 1 else (~bright, bright)
    assert heat.shape == (32, 32)
    assert heat[on].min() > 0.99 and heat[off].max() < 0.01


def test_no_hook_is_left_and_no_image_changed() -> None:
    network = Threshold(1)
    image = torch.randn(1, 3, 32, 32)
    before = image.clone()
    class_heat(network, image, network.features, 1)
    assert not any(module._forward_hooks for module in network.modules())
    torch.testing.assert_close(image, before, rtol=0, atol=0)


def test_a_score_is_the_mean_logit_over_the_region() -> None:
    output = torch.arange(12.0).view(3, 2, 2)
    region = torch.tensor([[1.0, 0], [0, 1]])
    assert float(ClassScore(1, region)(output)) == (4 + 7) / 2
    assert float(ClassScore(1, region)(output[:2])) == (4 + 7) / 2 - (0 + 3) / 2  # of two classes
    assert float(ClassScore(0, region)(output[:1])) == -(0 + 3) / 2


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2", "efficientnet-b0", "vgg11"])
@pytest.mark.parametrize("stage", [-1, 3])
def test_the_layer_of_a_stage_is_found(arch: str, stage: int) -> None:
    network = create_model("Unet", arch, 2).eval()
    image = torch.randn(1, 3, 64, 64)
    layer = encoder_layer(network, stage, image)
    heat = class_heat(network, image, layer, 1)
    assert heat.shape == (64, 64) and np.isfinite(heat).all()


def test_a_stage_that_is_not_there_is_named() -> None:
    network = create_model("Unet", "resnet18", 2).eval()
    with pytest.raises(UserError, match="stage must be 1 to 5"):
        encoder_layer(network, 9, torch.randn(1, 3, 64, 64))


def test_a_layer_is_found_by_its_name() -> None:
    network = create_model("Unet", "resnet18", 2)
    found = named_layer(network, "layer3.1")
    assert found is network.get_submodule("encoder.layer3.1")
    heat = class_heat(network.eval(), torch.randn(1, 3, 64, 64), found, 1)
    assert heat.shape == (64, 64) and heat.max() > 0
    with pytest.raises(UserError, match=r"no module 'layer3\.15': layer3 holds 0, 1"):
        named_layer(network, "layer3.15")
    with pytest.raises(UserError, match="it holds conv1, bn1"):
        named_layer(network, "stage3")


@pytest.mark.parametrize("index", [0, 1])
def test_a_first_logit_that_is_always_zero_has_heat_too(index: int) -> None:
    class WithZero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Threshold(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logit = self.inner(x)
            return torch.cat([torch.zeros_like(logit), logit], 1)

    network = WithZero()
    image = -torch.ones(1, 3, 32, 32)
    image[:, :, 8:20, 4:16] = 1
    heat = class_heat(network, image, network.inner.features, index)
    on = (image[0, 0].numpy() > 0) == (index == 1)
    assert heat[on].mean() > 10 * heat[~on].mean()
