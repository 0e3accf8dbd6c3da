"""DeepLabV2: stride, heads, sizes, which encoders it takes, and what a saved one needs to load."""

from typing import Any

import pytest
import torch
from torch import nn

from downstream.network.deeplab import DeepLabV2
from downstream.network.dilation import DILATIONS, dilation_error
from downstream.network.models import bare_model, create_model
from downstream.network.two_heads import UdaUnet, to_uda_network
from pretrain.cards.archs import ARCHS


def build(arch: str = "resnet18", classes: int = 2, **options: Any) -> DeepLabV2:
    torch.manual_seed(0)
    model = create_model("DeepLabV2", arch, classes, decoder_options=options)
    assert isinstance(model, DeepLabV2)
    return model


def images(*size: int) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "arch",
    [
        "resnet18",
        "mobilenet_v2",
        "efficientnet-b0",
        "se_resnext50_32x4d",
        "dpn68",
        "tu-convnext_atto",
    ],
)
def test_the_encoders_last_three_maps_have_stride_eight(arch: str) -> None:
    model = build(arch).eval()
    with torch.no_grad():
        *_, fine, before, last = model.encoder(images(64, 96))
        assert fine.shape[2:] == before.shape[2:] == last.shape[2:] == (8, 12)
        assert model(images(64, 96)).shape == (2, 2, 64, 96)


@pytest.mark.slow
def test_every_arch_that_dilates_reaches_stride_eight() -> None:
    for arch in (name for name in ARCHS if dilation_error(name) == ""):
        with torch.device("meta"):
            model = DeepLabV2(arch, 3, {}, aux=True)
            *_, fine, before, last = model.encoder(torch.empty(1, 3, 64, 96))
            main, aux = model.forward_heads(torch.empty(1, 3, 62, 96))
        assert fine.shape[2:] == before.shape[2:] == last.shape[2:] == (8, 12), arch
        assert aux is not None and main.shape == aux.shape == (1, 3, 62, 96), arch


@pytest.mark.parametrize("size", [(5, 7), (33, 64), (65, 79), (96, 96)])
@pytest.mark.parametrize("classes", [2, 3])
def test_logits_have_the_size_of_the_image(size: tuple[int, int], classes: int) -> None:
    model = build(classes=classes, aux=True).eval()
    with torch.no_grad():
        main, aux = model.forward_heads(images(*size))
    assert aux is not None
    assert main.shape == aux.shape == (2, classes, *size)
    assert torch.equal(model(images(*size)), main)


def test_logits_of_a_crop_are_those_of_the_image() -> None:
    model = build(dilations=[1]).eval()
    whole = torch.randn(1, 3, 608, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = model(whole)[:, 1], model(whole[:, :, 8:536])[:, 1]
    # Rows farther from any border than resnet18 at this stride sees.
    assert torch.allclose(found[:, 256:272], expected[:, 264:280], atol=1e-4)


def test_cells_lie_eight_pixels_apart() -> None:
    model = build(classes=3).eval()
    cells = torch.randn(1, 3, 5, 6)
    fine = model._logits(cells, torch.empty(1, 3, 33, 41), torch.empty(1, 3, 31, 40))
    assert fine.shape == (1, 3, 31, 40)
    assert torch.allclose(fine[:, :, ::8, ::8], cells[:, :, :4, :5], atol=1e-5)
    assert torch.allclose(fine[:, :, 0, 4], (cells[:, :, 0, 0] + cells[:, :, 0, 1]) / 2, atol=1e-5)
    fewer = model._logits(cells, torch.empty(1, 3, 41, 49), torch.empty(1, 3, 40, 48))
    assert torch.allclose(fewer[:, :, 4::8, 4::8], cells, atol=1e-5)
    assert torch.equal(fewer[:, :, 0, 0], fewer[:, :, 4, 4])


def test_all_branches_of_both_heads_learn() -> None:
    model = build(classes=3, aux=True)
    main, aux = model.forward_heads(images(64, 64))
    assert aux is not None
    target = torch.randint(0, 3, (2, 64, 64))
    (
        nn.functional.cross_entropy(main, target) + nn.functional.cross_entropy(aux, target)
    ).backward()
    for head in (model.head, model.aux_head):
        assert head is not None
        assert [branch.dilation for branch in head.branches] == [(d, d) for d in DILATIONS]
        for branch in head.branches:
            assert branch.weight.grad.abs().max() > 0 and branch.bias.grad.abs().max() > 0


def test_two_classes_have_one_logit_and_its_binary_cross_entropy() -> None:
    model = build()
    assert model.head.branches[0].out_channels == 1
    logits = model(images(32, 32))
    assert torch.count_nonzero(logits[:, 0]) == 0
    target = torch.randint(0, 2, (2, 32, 32))
    binary = nn.functional.binary_cross_entropy_with_logits(logits[:, 1], target.float())
    assert torch.allclose(nn.functional.cross_entropy(logits, target), binary)
    assert torch.allclose(logits.softmax(1)[:, 1], logits[:, 1].sigmoid())
    assert build(one_logit=False).head.branches[0].out_channels == 2


def test_encoders_that_smp_cannot_dilate_are_known() -> None:
    for name, spec in ARCHS.items():
        assert (dilation_error(name) == "") == bool(spec.dilates)
    assert "vgg16" in dilation_error("vgg16") and "resnet101" in dilation_error("vgg16")
    assert dilation_error("tu-convnext_atto") == ""
    assert "one" in dilation_error("tu-vit_tiny_patch16_224")
    assert "cannot dilate" in dilation_error("tu-swin_tiny_patch4_window7_224")


@pytest.mark.parametrize("size", [(40, 52), (64, 64)])
def test_a_unet_takes_any_size_and_keeps_its_names(size: tuple[int, int]) -> None:
    unet = create_model("Unet", "resnet18", 3).eval()
    network = to_uda_network(unet)
    assert isinstance(network, UdaUnet)
    with torch.no_grad():
        main, aux = network.eval().forward_heads(images(*size))
    assert aux is None and main.shape == (2, 3, *size)
    assert network.state_dict().keys() == unet.state_dict().keys()
    bare_model("Unet", "resnet18", 3, {}).load_state_dict(network.state_dict())


def test_other_decoders_are_rejected() -> None:
    with pytest.raises(TypeError, match="cannot adapt a FPN"):
        to_uda_network(create_model("FPN", "resnet18", 2))
