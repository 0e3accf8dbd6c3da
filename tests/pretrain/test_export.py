"""An exported encoder: loads in two lines, and is refused when it is not what its card says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file, save_file

from pretrain.card import read_card
from pretrain.export import export_encoder
from pretrain.model import build_encoder
from pretrain.train import main as train
from shards.cli import UserError
from shards.schema import IMAGENET_MEAN, SourceInfo, file_sha256

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "resnet18"
    train(
        f"--arch resnet18 --shards {shards} --run-dir {folder} --image-size 32 "
        "--batch-size 16 --epochs 1 --lr 0.01".split()
    )
    return folder


@pytest.fixture(scope="module")
def export(run: Path) -> Path:
    export_encoder(run, run / "export")
    return run / "export"


def test_it_loads_strictly_into_smp_in_two_lines(export: Path, run: Path) -> None:
    model = smp.Unet("resnet18", encoder_weights=None)
    model.encoder.load_state_dict(load_file(export / "encoder.safetensors"), strict=True)
    trained = load_file(run / "best.safetensors")
    assert torch.equal(model.encoder.conv1.weight, trained["encoder.conv1.weight"])


def test_the_card_tells_what_a_consumer_needs(export: Path, shards: Path) -> None:
    card = read_card(export)
    manifest = json.loads((shards / "manifest.json").read_text())
    assert card.classes == ("discs", "noise", "stripes")
    assert card.mean == IMAGENET_MEAN
    assert card.channels == 1
    assert card.corpus_hash == manifest["corpus_hash"]
    assert card.sha256 == file_sha256(export / "encoder.safetensors")
    assert card.config["lr"] == 0.01
    assert 0 <= card.metrics["top1"] <= 1


def test_restriction_of_the_corpus_stands_on_the_card_and_on_all_trained_from_it(
    shards: Path, tmp_path: Path
) -> None:
    restricted = tmp_path / "restricted"
    shutil.copytree(shards, restricted)
    content = json.loads((restricted / "manifest.json").read_text())
    content["sources"][0] |= {"name": "lab", "licence": "own", "restriction": "export controlled"}
    (restricted / "manifest.json").write_text(json.dumps(content))
    small = ["--image-size", "32", "--batch-size", "16", "--epochs", "1", "--lr", "0.01"]
    for name, data, init in (("first", restricted, "random"), ("second", shards, "first/export")):
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
    assert read_card(tmp_path / "second" / "export").sources[1:] == (lab,)


def test_card_of_version_1_is_read_and_of_another_refused(export: Path, tmp_path: Path) -> None:
    content = json.loads((export / "card.json").read_text())
    del content["sources"]
    for version in (1, 3):
        (tmp_path / "card.json").write_text(json.dumps(content | {"schema_version": version}))
        if version == 1:
            (source,) = read_card(tmp_path).sources
            assert (source.licence, source.restriction) == (None, None)
            continue
        with pytest.raises(UserError, match="schema_version 3, this version reads 2"):
            read_card(tmp_path)


def test_it_initialises_another_run(export: Path) -> None:
    encoder = build_encoder("resnet18", str(export))
    wanted = load_file(export / "encoder.safetensors")
    assert torch.equal(encoder.state_dict()["conv1.weight"], wanted["conv1.weight"])


def test_another_arch_is_refused(export: Path) -> None:
    with pytest.raises(UserError, match="holds a resnet18, not a resnet34"):
        build_encoder("resnet34", str(export))


def tampered(export: Path, folder: Path, change: Callable[[State], None]) -> Path:
    """A copy whose tensors are changed and whose card is made to agree."""
    copy = folder / "copy"
    shutil.copytree(export, copy)
    state = load_file(copy / "encoder.safetensors")
    change(state)
    save_file(state, copy / "encoder.safetensors")
    card = json.loads((copy / "card.json").read_text())
    card["sha256"] = file_sha256(copy / "encoder.safetensors")
    (copy / "card.json").write_text(json.dumps(card))
    return copy


def test_a_renamed_tensor_is_named(export: Path, tmp_path: Path) -> None:
    def rename(state: State) -> None:
        state["conv2.weight"] = state.pop("conv1.weight")

    copy = tampered(export, tmp_path, rename)
    message = r"1 tensors missing, first conv1\.weight; 1 tensors unknown, first conv2\.weight"
    with pytest.raises(UserError, match=message):
        build_encoder("resnet18", str(copy))


def test_a_misshapen_tensor_is_named(export: Path, tmp_path: Path) -> None:
    def reshape(state: State) -> None:
        state["conv1.weight"] = torch.zeros(64, 1, 7, 7)

    copy = tampered(export, tmp_path, reshape)
    with pytest.raises(UserError, match=r"conv1\.weight has shape \(64, 1, 7, 7\), not \(64, 3"):
        build_encoder("resnet18", str(copy))


def test_a_flipped_byte_is_refused(export: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(export, copy)
    file = copy / "encoder.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="is not the file that"):
        build_encoder("resnet18", str(copy))


def test_a_pickle_is_never_opened(export: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(export, copy)
    torch.save({"conv1.weight": torch.zeros(1)}, copy / "encoder.safetensors")
    card = json.loads((copy / "card.json").read_text())
    card["sha256"] = file_sha256(copy / "encoder.safetensors")
    (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="is no safetensors file"):
        build_encoder("resnet18", str(copy))


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training run in"):
        export_encoder(tmp_path, tmp_path / "export")


def test_an_out_folder_of_other_things_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is no export"):
        export_encoder(run, tmp_path)
    assert (tmp_path / "thesis.tex").exists()
