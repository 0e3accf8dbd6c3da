"""NASA's files, made here in their format: imported completely, or refused with the reason."""

import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import load_file

from micrograph.cli import UserError
from pretrain.cards.encoder_card import read_card
from pretrain.export.nasa import import_file, published_model
from pretrain.import_nasa import main
from pretrain.network.classifier import bare_encoder
from pretrain.registry.__main__ import main as registry_main

State = dict[str, torch.Tensor]


def published_state(arch: str) -> State:
    """The tensors of a 1000-way classifier, under the names of the library that trained it."""
    torch.manual_seed(0)
    if hasattr(torchvision.models, arch):
        state: State = torchvision.models.get_model(arch).state_dict()
        return state
    if arch.startswith("efficientnet"):
        head = {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
        return bare_encoder(arch).state_dict() | head
    names = {"se_resnet50": "legacy_seresnet50", "dpn68": "dpn68", "xception": "legacy_xception"}
    state = timm.create_model(names[arch]).state_dict()
    old = {"classifier.": "last_linear.", "fc.": "last_linear."}  # of pretrainedmodels
    return {
        next((new + name.removeprefix(o) for o, new in old.items() if name.startswith(o)), name): t
        for name, t in state.items()
    }


def save(folder: Path, arch: str, state: object, kind: str = "microscopynet") -> Path:
    path = folder / f"{arch}_pretrained_{kind}_v1.0.pth.tar"
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    "arch",
    [
        "resnet18",
        "mobilenet_v2",
        "efficientnet-b0",
        pytest.param("densenet121", marks=pytest.mark.slow),
        pytest.param("se_resnet50", marks=pytest.mark.slow),
        pytest.param("dpn68", marks=pytest.mark.slow),
        pytest.param("xception", marks=pytest.mark.slow),
        pytest.param("vgg11_bn", marks=pytest.mark.slow),
    ],
)
def test_the_encoder_is_imported_without_the_head(arch: str, tmp_path: Path) -> None:
    state = published_state(arch)
    out, _, card = import_file(save(tmp_path, arch, state), tmp_path / "out")
    imported = load_file(out / "encoder.safetensors")
    assert all(torch.equal(imported[name], state[name]) for name in imported)
    dropped = {name.split(".")[0] for name in state.keys() - imported.keys()}
    assert dropped <= {"fc", "_fc", "classifier", "last_linear"} and len(dropped) == 1
    smp.Unet(arch, encoder_weights=None).encoder.load_state_dict(imported)
    loaded = timm.create_model(f"local-dir:{out}/timm", pretrained=True, num_classes=0)
    assert loaded.num_classes == 0
    assert read_card(out) == card


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    return save(tmp_path, "resnet18", published_state("resnet18"), "imagenet-microscopynet")


def test_the_card_holds_what_was_published(resnet: Path, tmp_path: Path) -> None:
    _, _, card = import_file(resnet, tmp_path / "out")
    assert card.metrics == pytest.approx({"top1": 0.81185, "top5": 0.96926})
    assert (card.init, card.classes, card.corpus_hash, card.converged) == ("imagenet", (), "", True)
    assert card.sources[0].licence == "MIT"
    assert "assumption" in card.config["note"]


def test_it_is_published_under_the_name_of_nasas_package(
    resnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path / "registry")
    main([str(resnet), "--out", str(tmp_path / "imported"), "--registry", root])
    assert capsys.readouterr().out.split() == ["resnet18.image-micronet@1"]
    registry_main(["list", "--registry", root])
    assert "81.2%" in capsys.readouterr().out


def test_a_published_model_at_chance_level_is_marked(tmp_path: Path) -> None:
    state = bare_encoder("vgg11").state_dict() | {"classifier.0.bias": torch.zeros(4096)}
    path = save(tmp_path, "vgg11", state, "imagenet-microscopynet")
    assert not import_file(path, tmp_path / "out")[2].converged


def test_the_file_published_for_two_encoders_has_one_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, tag = published_model("resnext101_pretrained_microscopynet_v1.0.pth.tar")
    assert (model.arch, model.init, tag) == ("resnext101_32x8d", "random", "micronet")
    with pytest.raises(SystemExit):
        main(["resnext101_pretrained_imagenet-microscopynet_v1.0.pth.tar"])
    assert "for both; import that one" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet18.pth", ""),
        ("resnet19_pretrained_microscopynet_v1.0.pth.tar", "nearest is resnet1"),
        ("resnet18_pretrained_microscopynet_v1.1.pth.tar", "nearest is resnet18_"),
    ],
)
def test_another_file_name_is_an_error(name: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"is not the name of a file that NASA published.*{hint}"):
        import_file(tmp_path / name, tmp_path / "out")


class Evil:
    def __reduce__(self) -> object:
        return (print, ("executed",))


def test_other_content_is_refused_and_never_executed(
    resnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(resnet, weights_only=True)
    faults = {
        "1 tensors missing, first conv1.weight": {
            k: v for k, v in state.items() if k != "conv1.weight"
        },
        "1 tensors unknown, first fcx.weight": state | {"fcx.weight": torch.zeros(1)},
        "other things than named tensors": {"epoch": 3},
    }
    for message, content in faults.items():
        torch.save(content, resnet)
        with pytest.raises(UserError, match=message):
            import_file(resnet, tmp_path / "out")
    for content in (pickle.dumps(Evil()), b"", b"<html>not found</html>"):
        resnet.write_bytes(content)
        with pytest.raises(UserError, match=r"not a file of tensors only: .*download it again"):
            import_file(resnet, tmp_path / "out")
    resnet.unlink()
    resnet.mkdir()
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        import_file(resnet, tmp_path / "out")
    assert "executed" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_file_given_by_name_is_downloaded(
    resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("pretrain.export.nasa.ADDRESS", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.chdir(tmp_path / "..")
    main([resnet.name, "--out", str(tmp_path / "imported")])
    server.shutdown()
    server.server_close()
    assert read_card(tmp_path / "imported" / "resnet18.image-micronet").arch == "resnet18"
