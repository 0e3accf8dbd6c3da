"""An exported encoder loads in two lines, and is refused if it differs from its card."""

import io
import json
import shutil
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from damage import flip
from safetensors.torch import load_file, save

from micrograph.cli import UserError
from pretrain.cards.encoder_card import read_card
from pretrain.export.encoder import export_encoder
from pretrain.network.classifier import build_encoder
from pretrain.train import main as train
from shards.shard_format.schema import IMAGENET_MEAN, IMAGENET_STD, SourceInfo, file_sha256

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "resnet18"
    train(
        f"--arch resnet18 --shards {shards} --run-dir {folder} --image-size 32 "
        "--batch-size 16 --epochs 1 --lr 0.01 --threads 1".split()
    )
    return folder


@pytest.fixture(scope="module")
def export(run: Path) -> Path:
    export_encoder(run, run / "export")
    return run / "export"


def test_an_export_loads_strictly_into_smp_in_two_lines(export: Path, run: Path) -> None:
    model = smp.Unet("resnet18", encoder_weights=None)
    model.encoder.load_state_dict(load_file(export / "encoder.safetensors"), strict=True)
    trained = load_file(run / "best.safetensors")
    assert torch.equal(model.encoder.conv1.weight, trained["encoder.conv1.weight"])


def test_the_card_holds_what_a_user_needs(export: Path, shards: Path) -> None:
    card = read_card(export)
    manifest = json.loads((shards / "manifest.json").read_text())
    assert card.classes == ("discs", "noise", "stripes")
    assert card.mean == IMAGENET_MEAN
    assert card.channels == 1
    assert card.corpus_hash == manifest["corpus_hash"]
    assert card.sha256 == file_sha256(export / "encoder.safetensors")
    assert card.config["lr"] == 0.01
    assert (card.init, card.init_tag, card.encoder_options) == ("random", "", {})
    assert card.timm_difference == 0
    assert 0 <= card.metrics["top1"] <= 1
    assert card.class_accuracy is not None and None not in card.class_accuracy
    assert sum(map(float, card.class_accuracy)) / 3 == pytest.approx(card.metrics["top1"])


def test_the_card_names_the_installed_dali_if_there_is_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pretrain.export.encoder.distributions", lambda: distributions(path=[str(tmp_path)])
    )
    assert not any("dali" in name for name in export_encoder(run, tmp_path / "cpu").versions)
    metadata = tmp_path / "nvidia_dali_cuda120-2.4.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: nvidia-dali-cuda120\nVersion: 2.4.0\n")
    card = export_encoder(run, tmp_path / "cuda12")
    assert card.versions["nvidia-dali-cuda120"] == "2.4.0"


def test_a_restriction_of_the_corpus_is_inherited_by_all_trained_from_it(
    shards: Path, tmp_path: Path
) -> None:
    restricted = tmp_path / "restricted"
    shutil.copytree(shards, restricted)
    content = json.loads((restricted / "manifest.json").read_text())
    content["sources"][0] |= {"name": "lab", "licence": "own", "restriction": "export controlled"}
    (restricted / "manifest.json").write_text(json.dumps(content))
    small = [
        "--image-size",
        "32",
        "--batch-size",
        "48",
        "--epochs",
        "1",
        "--lr",
        "0.01",
        "--threads",
        "1",
    ]
    file = "first/export/encoder.safetensors"
    runs = (("first", restricted, "random"), ("second", shards, "first/export"))
    for name, data, init in (*runs, ("third", shards, file)):
        begun = init if init == "random" else str(tmp_path / init)
        run = tmp_path / name
        flags = ["--shards", str(data), "--run-dir", str(run), "--init", begun]
        train(["--arch", "resnet18", *flags, *small])
        export_encoder(run, run / "export")
    lab = SourceInfo(
        name="lab",
        samples=content["sources"][0]["samples"],
        licence="own",
        restriction="export controlled",
        citation=None,
    )
    assert read_card(tmp_path / "first" / "export").sources == (lab,)
    for name in ("second", "third"):
        assert read_card(tmp_path / name / "export").sources[1:] == (lab,)
        readme = (tmp_path / name / "export" / "timm" / "README.md").read_text()
        assert "Restricted (lab): export controlled" in readme


def test_a_card_of_another_version_is_refused(export: Path, tmp_path: Path) -> None:
    content = json.loads((export / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(UserError, match="schema_version 99, this version reads 1"):
        read_card(tmp_path)


def test_timm_and_smp_load_the_timm_folder_in_one_line(export: Path) -> None:
    name, images = f"local-dir:{export}/timm", torch.randn(2, 3, 64, 64)
    ours = build_encoder("resnet18", str(export)).eval()
    headless = timm.create_model(name, pretrained=True, num_classes=0).eval()
    maps = timm.create_model(name, pretrained=True, features_only=True).eval()
    segmenter = smp.Unet(f"tu-{name}", encoder_weights=True, classes=3).eval()
    with torch.no_grad():
        expected = ours(images)[-1]
        assert torch.equal(headless(images), expected.mean((2, 3)))
        assert torch.equal(maps(images)[-1], expected)
        assert torch.equal(segmenter.encoder(images)[-1], expected)


def test_timms_config_has_normalisation_size_and_class_names(export: Path) -> None:
    loaded = timm.create_model(f"local-dir:{export}/timm", pretrained=True)
    data = timm.data.resolve_model_data_config(loaded)
    assert (tuple(data["mean"]), tuple(data["std"])) == (IMAGENET_MEAN, IMAGENET_STD)
    assert tuple(data["input_size"]) == (3, 32, 32)
    assert loaded.pretrained_cfg["label_names"] == ["discs", "noise", "stripes"]
    assert loaded.pretrained_cfg["license"] == "unknown"


def test_another_arch_is_refused(export: Path) -> None:
    with pytest.raises(UserError, match="holds a resnet18, not a resnet34"):
        build_encoder("resnet34", str(export))


def renamed(state: State) -> None:
    state["conv2.weight"] = state.pop("conv1.weight")


def reshaped(state: State) -> None:
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            renamed,
            r"1 tensors missing, first conv1\.weight; 1 tensors unknown, first conv2\.weight",
        ),
        (reshaped, r"conv1\.weight has shape \(64, 1, 7, 7\), not \(64, 3"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    export: Path, tmp_path: Path, change: Callable[[State], None], message: str
) -> None:
    state = load_file(export / "encoder.safetensors")
    change(state)
    with pytest.raises(UserError, match=message):
        build_encoder("resnet18", str(with_file(export, tmp_path, save(state))))


def test_a_flipped_byte_is_refused(export: Path, tmp_path: Path) -> None:
    shutil.copytree(export, tmp_path / "copy")
    flip(tmp_path / "copy" / "encoder.safetensors", 10_000)
    with pytest.raises(UserError, match="is not the file that"):
        build_encoder("resnet18", str(tmp_path / "copy"))


def test_a_pickle_is_never_opened(export: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(1)}, stream)
    copy = with_file(export, tmp_path, stream.getvalue())
    with pytest.raises(UserError, match="is not a safetensors file"):
        build_encoder("resnet18", str(copy))


def with_file(export: Path, folder: Path, content: bytes) -> Path:
    """A copy of the export with other weights, and a card that agrees."""
    copy = folder / "copy"
    shutil.copytree(export, copy)
    (copy / "encoder.safetensors").write_bytes(content)
    card = json.loads((copy / "card.json").read_text())
    card["sha256"] = file_sha256(copy / "encoder.safetensors")
    (copy / "card.json").write_text(json.dumps(card))
    return copy


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training run in"):
        export_encoder(tmp_path, tmp_path / "export")


def test_an_out_folder_of_other_things_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not an export"):
        export_encoder(run, tmp_path)
    assert (tmp_path / "thesis.tex").exists()
