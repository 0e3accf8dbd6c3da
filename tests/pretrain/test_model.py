"""The classifier around smp's encoder."""

import pytest
import torch
from torch import nn

from pretrain.archs import ARCHS, find_arch
from pretrain.model import build_classifier, build_encoder
from shards.cli import UserError

# One arch per kind of head input and of initialisation; all 43 are built by a slow test.
SAMPLE = ("resnet18", "efficientnet-b0", "densenet121", "mobilenet_v2", "vgg11")


@pytest.mark.parametrize("arch", SAMPLE)
def test_every_parameter_gets_a_gradient(arch: str) -> None:
    check_gradients(arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [arch for arch in ARCHS if arch not in SAMPLE])
def test_every_parameter_of_every_arch_gets_a_gradient(arch: str) -> None:
    check_gradients(arch)


def check_gradients(arch: str) -> None:
    torch.manual_seed(0)
    model = build_classifier(arch, "random", classes=3, dropout=0.0)
    logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_random_weights_follow_he() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("efficientnet-b0", "random")  # smp alone leaves it at 0.41 of this
    conv = encoder._blocks[5]._expand_conv  # type: ignore[index, union-attr]
    assert isinstance(conv, nn.Conv2d)
    wanted = (2 / conv.in_channels) ** 0.5
    assert conv.weight.std().item() == pytest.approx(wanted, rel=0.05)


def test_an_unknown_arch_names_the_nearest() -> None:
    with pytest.raises(UserError, match="nearest is 'efficientnet-b4'"):
        find_arch("efficientnet_b4")


def test_the_table_holds_paper_as_encoders() -> None:
    assert len(ARCHS) == 43
    assert {"vgg16_bn", "dpn131", "senet154", "xception", "efficientnet-b7"} <= ARCHS.keys()
    assert {name for name, spec in ARCHS.items() if spec.weight_tag == "imagenet+5k"} == {
        "dpn68b",
        "dpn92",
        "dpn107",
    }
