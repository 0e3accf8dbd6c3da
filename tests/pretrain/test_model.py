"""The classifier around smp's encoder; every arch of the table is built in test_archs.py."""

import re

import pytest
import torch

from pretrain.inits import resolve_init
from pretrain.model import build_classifier, build_encoder
from shards.cli import UserError


def test_the_head_pools_drops_and_is_linear() -> None:
    torch.manual_seed(0)
    model = build_classifier("resnet18", "random", classes=3, dropout=0.5).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = model.encoder(images)[-1].mean((2, 3))
        wanted = pooled @ model.linear.weight.T + model.linear.bias
        assert torch.allclose(model(images), wanted, atol=1e-5)
        assert not torch.equal(model.train()(images), model(images))


def test_efficientnets_own_head_convolution_is_trained() -> None:
    model = build_classifier("efficientnet-b0", "random", classes=3, dropout=0.0)
    assert model.features(torch.randn(1, 3, 64, 64)).shape == (1, 1280, 2, 2)


def test_random_weights_are_the_seeds() -> None:
    def weight(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_encoder("resnet18", "random").state_dict()["layer4.1.conv2.weight"]

    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))


@pytest.mark.parametrize(
    ("init", "kind", "label"),
    [
        ("random", "random", "random"),
        ("imagenet", "imagenet", "imagenet"),
        ("runs/a/export", "export", "export"),
        ("runs/a/export/encoder.safetensors", "export", "encoder"),
        ("efficientnet-b4.micronet", "registry", "micronet"),
        ("efficientnet-b4.micronet@2", "registry", "micronet"),
    ],
)
def test_an_init_is_random_imagenet_an_export_or_a_name(init: str, kind: str, label: str) -> None:
    found = resolve_init(init)
    assert (found.kind, found.label) == (kind, label)
    assert (found.location is None) == (kind in ("random", "imagenet"))


def test_a_misspelt_word_is_no_file() -> None:
    with pytest.raises(UserError, match="'imagnet'; nearest is 'imagenet'"):
        resolve_init("imagnet")


def test_imagenet_weights_that_cannot_be_had_name_their_tag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for arch, tag in (("dpn68b", "imagenet+5k"), ("tu-convnext_atto", "d2_in1k")):
        with pytest.raises(UserError, match=re.escape(f"weights {tag!r} of {arch}: ")):
            build_encoder(arch, "imagenet")
