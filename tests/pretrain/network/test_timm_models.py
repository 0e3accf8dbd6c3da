"""A timm model `tu-NAME` is trained, exported and loaded like those of the table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file

from downstream.network.models import create_model
from micrograph.cli import UserError
from pretrain.cards.encoder_card import read_card
from pretrain.export.encoder import export_encoder
from pretrain.network.classifier import build_classifier, build_encoder, imagenet_tag
from pretrain.network.timm_models import encoder_options, feature_type
from pretrain.train import main as train

CONVNEXT, SWIN = "tu-convnext_atto", "tu-swin_tiny_patch4_window7_224"
VIT, REGNET = "tu-vit_tiny_patch16_224", "tu-regnety_002"
Run = Callable[[str], Path]


@pytest.fixture(scope="module")
def export_of(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train an arch for two steps, at a size that none of them was made for, and export it."""
    done: dict[str, Path] = {}

    def run(arch: str) -> Path:
        if arch not in done:
            folder = tmp_path_factory.mktemp("run") / "run"
            train(
                f"--arch {arch} --shards {shards} --run-dir {folder} --image-size 64 "
                "--batch-size 24 --epochs 1 --lr 0.01 --threads 1".split()
            )
            export_encoder(folder, folder / "export")
            done[arch] = folder / "export"
        return done[arch]

    return run


@pytest.mark.parametrize("arch", [CONVNEXT, SWIN, REGNET, VIT])
def test_a_segmenter_starts_from_the_trained_weights(arch: str, export_of: Run) -> None:
    export, images = export_of(arch), torch.randn(1, 3, 96, 96)
    options = read_card(export).encoder_options
    decoder = "DPT" if arch == VIT else "Unet"
    by_file = smp.create_model(decoder, arch, encoder_weights=None, classes=2, **options).eval()
    by_file.encoder.load_state_dict(load_file(export / "encoder.safetensors"), strict=True)
    encoders = [create_model(decoder, str(export), classes=2).eval().encoder]
    if arch != VIT:
        name = f"tu-local-dir:{export}/timm"
        encoders.append(smp.Unet(name, encoder_weights=True, classes=2).eval().encoder)
    with torch.no_grad():
        expected = deepest(by_file.encoder(images))
        assert all(torch.equal(deepest(encoder(images)), expected) for encoder in encoders)
        assert by_file(images).shape == (1, 2, 96, 96)


def deepest(features: Any) -> torch.Tensor:
    maps = features[0] if isinstance(features, tuple) else features  # a ViT has prefix tokens too
    return maps[-1]  # type: ignore[no-any-return]


@pytest.mark.parametrize("arch", [VIT, REGNET])
def test_timm_loads_the_classifier(arch: str, export_of: Run) -> None:
    export, images = export_of(arch), torch.randn(1, 3, 64, 64)
    loaded = timm.create_model(f"local-dir:{export}/timm", pretrained=True).eval()
    trained = build_classifier(arch, str(export), classes=3, dropout=0.0, image_size=64).eval()
    best = load_file(export.parent / "best.safetensors")
    trained.load_state_dict(best)
    with torch.no_grad():
        assert torch.allclose(loaded(images), trained(images), atol=1e-5)
    assert loaded.pretrained_cfg["label_names"] == ["discs", "noise", "stripes"]


@pytest.mark.parametrize("arch", [CONVNEXT, SWIN])
def test_there_is_no_classifier_where_timm_has_an_untrained_norm_before_it(
    arch: str, export_of: Run
) -> None:
    export = export_of(arch)
    loaded = timm.create_model(f"local-dir:{export}/timm", pretrained=True)
    assert loaded.num_classes == 0
    readme = (export / "timm" / "README.md").read_text()
    assert "norm.weight" in readme and "features_only=True" in readme


@pytest.mark.parametrize("arch", [CONVNEXT, SWIN, VIT])
def test_timms_features_are_equal(arch: str, export_of: Run) -> None:
    card = read_card(export_of(arch))
    assert (card.timm_features, card.timm_difference) == ("equal", 0)
    assert (card.arch, card.timm_name) == (arch, arch.removeprefix("tu-"))


def test_an_unused_parameter_is_not_trained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arch = "tu-hrnet_w18_small"  # its last stage makes maps of four resolutions, one is deepest
    model = build_classifier(arch, "random", classes=3, dropout=0.0, image_size=32)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, p in trained if p.grad is None] == []
    assert 0 < len(trained) < len(list(model.parameters()))
    assert "are unused" in capsys.readouterr().err


def test_timms_own_initialisation_is_kept() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(CONVNEXT, "random")
    stem = encoder.get_parameter("model.stem_0.weight")
    assert stem.std().item() == pytest.approx(0.02, rel=0.05)  # ConvNeXt's; He's would be 0.2


@pytest.mark.parametrize(
    ("arch", "size", "message"),
    [
        ("tu-convnext_tny", 64, "no model 'convnext_tny'; nearest is 'tu-convnext_tiny'"),
        ("tu-convnext_atto.in99k", 64, "no weights 'in99k'; it has: d2_in1k"),
        ("tu-levit_128", 224, r"have strides \[16, 32, 64\]; smp takes strides that double"),
        ("tu-cait_xxs24_224", 224, "smp cannot take the features of tu-cait_xxs24_224"),
        ("tu-maxvit_rmlp_pico_rw_256", 64, "it was made for 256, so --image-size 256"),
    ],
)
def test_what_cannot_be_trained_is_an_error(arch: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_classifier(arch, "random", classes=3, dropout=0.0, image_size=size)


def test_smp_gets_the_option_for_any_image_size() -> None:
    assert encoder_options("resnet18") == encoder_options(CONVNEXT) == {}
    assert encoder_options(SWIN) == {"dynamic_img_size": True}
    assert encoder_options("tu-hiera_tiny_224") == {}  # made for one size, and bound to it
    assert [feature_type(arch) for arch in (CONVNEXT, SWIN, VIT)] == ["pyramid", "pyramid", "vit"]


def test_the_imagenet_weights_have_timms_tag() -> None:
    assert imagenet_tag("tu-convnext_atto") == "d2_in1k"
    assert imagenet_tag("tu-convnext_tiny.fb_in22k") == "fb_in22k"
    assert imagenet_tag("dpn92") == "imagenet+5k"
    with pytest.raises(UserError, match="publishes no weights of tu-mixer_s32_224"):
        imagenet_tag("tu-mixer_s32_224")


@pytest.mark.parametrize(("decoder", "arch"), [("Unet", VIT), ("DPT", CONVNEXT)])
def test_a_decoder_for_other_resolutions_is_refused(decoder: str, arch: str) -> None:
    with pytest.raises(UserError, match="DPT needs an encoder with a single resolution"):
        create_model(decoder, arch, classes=2)
