"""Exported files reproduce the run at any size and carry its card."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from networks import SMALL_ARCH

from downstream.export import FORMATS, export_segmenter, main
from downstream.finetune.config import SegmentConfig
from downstream.finetune.labelled_set import read_labelled_set
from downstream.network.segmenter import load_segmenter
from downstream.segment import segment
from micrograph.cli import EXIT_USER_ERROR
from pretrain.cards.segmenter_card import read_segmenter_card, write_segmenter_card
from shards.shard_format.schema import file_sha256

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")


def finished_run(data: Path, run: Path, decoder: str = "Unet", arch: str = SMALL_ARCH) -> Path:
    config = SegmentConfig(
        data=data,
        run_dir=run,
        decoder=decoder,  # type: ignore[arg-type]
        arch=arch,
        crop_size=64,
        batch_size=2,
        samples_per_epoch=8,
        max_epochs=1,
        stage2_lr=None,
        threads=1,
    )
    segment(config)
    return run


@pytest.fixture(scope="module")
def run(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(squares, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def out(run: Path) -> Path:
    main([str(run), "--formats", *FORMATS])
    return run / "export"


def test_the_masks_of_onnx_are_those_of_the_run(out: Path, run: Path, squares: Path) -> None:
    session = onnxruntime.InferenceSession(out / "segmenter.onnx")
    segmenter = load_segmenter(run, torch.device("cpu"))
    for item in read_labelled_set(SegmentConfig(data=squares)).test:
        pixels = np.pad(item.pixels, ((0, 64), (0, 112), (0, 0)), mode="symmetric")
        image = pixels.astype(np.float32).transpose(2, 0, 1)[None]
        found = session.run(None, {"image": image})[0]
        assert found.shape == (1, 2, 128, 192)
        assert found.sum(1) == pytest.approx(1, abs=1e-5)
        wanted = segmenter.probabilities(pixels).numpy()
        assert np.abs(found[0] - wanted).max() < 1e-4
        assert np.array_equal(found[0].argmax(0), wanted.argmax(0))


def test_it_carries_its_classes_and_its_card(out: Path, run: Path) -> None:
    metadata = onnxruntime.InferenceSession(out / "segmenter.onnx").get_modelmeta()
    assert json.loads(metadata.custom_metadata_map["classes"]) == ["class0", "class1"]
    card = json.loads((out / "card.json").read_text())
    assert card["segmenter"] == json.loads((run / "card.json").read_text())
    assert set(card["files"]) == set(FORMATS.values())
    for name, facts in card["files"].items():
        path = out / "smp" / "model.safetensors" if name == "smp" else out / name
        assert facts["size"] is None  # any
        assert facts["pixels_changed"] == 0
        assert facts["sha256"] == file_sha256(path)


def test_smp_and_torch_read_their_formats(out: Path, run: Path) -> None:
    own = load_segmenter(run, torch.device("cpu"))
    images = torch.randint(0, 256, (1, 3, 96, 64), dtype=torch.uint8)
    with torch.no_grad():
        wanted = own.logits(images)
        found = smp.from_pretrained(out / "smp").eval()(own.normalise(images))
        assert torch.allclose(found, wanted, atol=1e-4)
        large = torch.randint(0, 256, (1, 3, 160, 128)).float()
        read = torch.export.load(out / "segmenter.pt2").module()(large)
        assert torch.allclose(read, own.logits(large.to(torch.uint8)).softmax(1), atol=1e-4)


def test_without_the_images_of_the_run_noise_is_used_with_a_warning(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("best.safetensors", "card.json", "config.yaml"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    config = (tmp_path / "config.yaml").read_text()
    data = next(line for line in config.splitlines() if line.startswith("data:"))
    (tmp_path / "config.yaml").write_text(config.replace(data, f"data: {tmp_path / 'absent'}"))
    export_segmenter(tmp_path, tmp_path / "out", ["smp"])
    assert "checked on noise" in capsys.readouterr().err


def test_required_preparation_is_reported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "adapted")
    card = read_segmenter_card(run)
    preparation = {"scale": 0.25, "invert": True, "crop_bar": False}
    write_segmenter_card(tmp_path / "adapted", replace(card, preparation=preparation))
    content = export_segmenter(tmp_path / "adapted", tmp_path / "out", ["smp"])
    said = "prepared by: scale 0.25, invert True, crop_bar False"
    assert content["input"].endswith(said)
    assert said in " ".join(capsys.readouterr().err.split())


def test_an_unfinished_run_is_a_one_line_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path)])
    assert end.value.code == EXIT_USER_ERROR
    assert "is it a finished run of a segmenter?" in capsys.readouterr().err


@pytest.mark.slow
def test_a_network_of_fixed_size_is_exported_at_the_crop_size(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # PSPNet pools to grids of 1, 2, 3 and 6, whose windows depend on the size.
    run = finished_run(squares, tmp_path / "run", "PSPNet", "resnet18")
    content = export_segmenter(run, tmp_path / "out", ["onnx"])
    assert content["files"]["segmenter.onnx"]["size"] == (1, 64, 64)
    assert content["files"]["segmenter.onnx"]["largest_difference"] < 1e-4
    assert "segmenter.onnx only takes 64 pixels square" in capsys.readouterr().err
