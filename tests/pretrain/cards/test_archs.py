"""Every architecture of the table is what its row says: in smp, in timm, in training."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from micrograph.cli import UserError
from pretrain.archs import main
from pretrain.cards.archs import ARCHS, find_arch
from pretrain.export.timm_folder import TimmExport, write_timm_folder
from pretrain.network.classifier import Classifier, build_classifier
from shards.shard_format.schema import IMAGENET_MEAN, IMAGENET_STD

# One of every kind; the others are slow tests, two minutes long in all.
KINDS = (
    "vgg11",
    "densenet121",
    "dpn68",
    "efficientnet-b1",
    "resnet18",
    "inceptionv4",
    "xception",
    "mobilenet_v2",
    "se_resnet50",
)
NATIVE_SIZE = {  # pixels: what each EfficientNet was designed for (Tan and Le 2019)
    "efficientnet-b1": 240,
    "efficientnet-b2": 260,
    "efficientnet-b3": 300,
    "efficientnet-b4": 380,
    "efficientnet-b5": 456,
    "efficientnet-b6": 528,
    "efficientnet-b7": 600,
}
CLASSES = ("discs", "noise", "stripes")


@pytest.fixture
def memory_freed() -> Iterator[None]:
    """Networks hold themselves: the largest would stay beside one another."""
    yield
    gc.collect()  # half a second


def in_parts(archs: list[str]) -> list[object]:
    return [
        pytest.param(arch, marks=() if arch in KINDS else pytest.mark.slow, id=arch)
        for arch in archs
    ]


@pytest.mark.usefixtures("memory_freed")
@pytest.mark.parametrize("arch", in_parts(list(ARCHS)))
def test_it_trains_and_loads_in_smp_and_timm(arch: str, tmp_path: Path) -> None:
    spec = find_arch(arch)
    torch.manual_seed(0)
    model = build_classifier(arch, "random", len(CLASSES), dropout=0.0)
    millions = sum(p.numel() for p in model.encoder.parameters()) / 1e6
    assert spec.params == pytest.approx(millions, abs=0.006)
    assert follows_he(model.encoder)
    assert parameters_without_gradient(model, size=64) == []
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, spec.min_size, spec.min_size)).isfinite().all()

    randomise_statistics(model)  # else every batch norm is the identity, and hides an exchange
    loads_strictly_in_smp(arch, model)
    size = 96 if "inception" in arch else 64  # timm's inception nets need 75 pixels
    difference = write_timm_folder(tmp_path, model, timm_export(arch, size))
    if spec.timm_features == "equal":
        assert difference == 0
        assert logits_differ_by(tmp_path, model, size) < 1e-5
    else:
        assert difference > 1e-3
        assert spec.timm_features in (tmp_path / "README.md").read_text().replace("\n", " ")


@pytest.mark.usefixtures("memory_freed")
@pytest.mark.parametrize("arch", in_parts(list(NATIVE_SIZE)))
def test_an_efficientnet_equals_timms_at_its_native_size(arch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_classifier(arch, "random", len(CLASSES), dropout=0.0)
    randomise_statistics(model)
    assert write_timm_folder(tmp_path, model, timm_export(arch, NATIVE_SIZE[arch])) == 0


def test_every_architecture_with_other_features_is_tested_where_they_are_equal() -> None:
    named = {name for name, spec in ARCHS.items() if spec.timm_features == "equal at native size"}
    assert named == NATIVE_SIZE.keys()


def test_a_linear_layer_goes_to_timm_even_where_timm_has_two_more(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_classifier("vgg11", "random", len(CLASSES), dropout=0.0)
    write_timm_folder(tmp_path, model, timm_export("vgg11", 224))
    assert logits_differ_by(tmp_path, model, 224) < 1e-5
    pooled = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        found, expected = pooled(images), model.pool(model.features(images))
    assert torch.allclose(found[:, :512], expected, rtol=1e-4, atol=1e-6)
    assert not found[:, 512:].any()


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("efficientnet_b4", "nearest is 'efficientnet-b4'"),
        ("tu-local-dir:export/timm", "weights of your own go to --init"),
    ],
)
def test_what_is_not_an_arch_is_an_error(arch: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_arch(arch)


def test_the_table_holds_paper_as_encoders_as_smp_and_timm_know_them() -> None:
    assert len(ARCHS) == 43
    assert {"vgg16_bn", "dpn131", "senet154", "xception", "efficientnet-b7"} <= ARCHS.keys()
    for name, spec in ARCHS.items():
        assert spec.weight_tag in smp.encoders.encoders[name]["pretrained_settings"], name
        assert timm.is_model(spec.timm_name), name
    extra = {name for name, spec in ARCHS.items() if spec.weight_tag == "imagenet+5k"}
    assert extra == {"dpn68b", "dpn92", "dpn107"}


def test_the_printed_table_fits_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 100
    assert "…" not in "".join(lines)
    (row,) = [line.split() for line in lines if line.startswith("se_resnext101_32x4d")]
    expected = ["legacy_seresnext101_32x4d", "46.91", "16", "imagenet", "yes", "equal"]
    assert row[1:] == expected


def test_programs_get_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--json"])
    table = json.loads(capsys.readouterr().out)
    assert list(table) == list(ARCHS)
    assert table["dpn92"]["weight_tag"] == "imagenet+5k"


def follows_he(encoder: nn.Module) -> bool:
    """Whether every convolution of over 10,000 weights has the deviation of He et al. 2015."""
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 10_000:
            fan_in = layer.weight[0].numel()
            if layer.weight.std().item() != pytest.approx((2 / fan_in) ** 0.5, rel=0.04):
                return False
    return True


def parameters_without_gradient(model: nn.Module, size: int) -> list[str]:
    model.eval()  # else EfficientNet drops whole blocks by chance
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train()  # else deep nets overflow
    model(torch.randn(2, 3, size, size)).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.zero_grad(set_to_none=True)
    return without


def randomise_statistics(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]


def loads_strictly_in_smp(arch: str, model: Classifier) -> None:
    encoder = smp.Unet(arch, encoder_weights=None).encoder
    encoder.load_state_dict(dict(model.encoder.state_dict()))  # no `strict`: two of smp's refuse it
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(encoder.eval()(images)[-1], model.encoder.eval()(images)[-1])


def timm_export(arch: str, image_size: int) -> TimmExport:
    return TimmExport(
        arch=arch,
        classes=CLASSES,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=image_size,
        sources=(),
    )


def logits_differ_by(folder: Path, model: Classifier, size: int) -> float:
    """Relative to the largest, between timm's classifier from `folder` and ours."""
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        found, expected = loaded(images), model.eval()(images)
    assert loaded.pretrained_cfg["label_names"] == list(CLASSES)
    return float((found - expected).abs().max() / expected.abs().max())
