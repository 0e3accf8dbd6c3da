"""A published segmenter, used by its name, does what its run does; another kind is explained."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import SMALL_ARCH
from PIL import Image

from downstream import calibrate, explain, export, predict
from downstream.finetune.config import SegmentConfig
from downstream.network.segmenter import load_segmenter
from downstream.segment import segment
from micrograph.cli import EXIT_USER_ERROR, UserError
from pretrain.cards.segmenter_card import read_segmenter_card, write_segmenter_card
from pretrain.cards.usage import snippets
from pretrain.export.publishing import publish
from pretrain.registry.storage.pull import pull
from shards.shard_format.schema import file_sha256

NETWORK = f"unet-{SMALL_ARCH}"
NAME = f"{NETWORK}.squares"
FEW = ["--tile", "64", "--overlap", "32", "--threads", "1"]


@pytest.fixture(scope="module")
def run(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its calibration."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = SegmentConfig(
        data=squares,
        run_dir=folder,
        arch=SMALL_ARCH,
        crop_size=64,
        batch_size=2,
        samples_per_epoch=4,
        max_epochs=1,
        stage2_lr=None,
        threads=1,
    )
    segment(config)
    calibrate.calibrate(folder)
    return folder


@pytest.fixture(scope="module")
def registry(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    publish(run, "squares", str(root), not_converged=True)
    return root


@pytest.fixture(autouse=True)
def user(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROGRAPH_REGISTRY", str(registry))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    y, x = np.mgrid[:96, :128]
    stripes = (128 + 127 * np.sin(x / 2 + y / 3)).astype(np.uint8)
    path = tmp_path / "stripes.png"
    Image.fromarray(stripes).save(path)
    return path


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_name_predicts_like_its_run_and_the_entry_does_not_change(
    run: Path, registry: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(registry)
    for number, location in enumerate((str(run), NAME, f"{NAME}@1")):
        predict.main([location, str(image), "--out", str(tmp_path / str(number)), *FEW])
        assert "is unlike the labelled images" in " ".join(capsys.readouterr().err.split())
    records = [
        json.loads((tmp_path / str(number) / "records" / "stripes.json").read_text())
        for number in range(3)
    ]
    for record in records:
        del record["seconds"]
    assert records[0] == records[1] == records[2]
    masks = {file_sha256(tmp_path / str(number) / "stripes.png") for number in range(3)}
    assert len(masks) == 1
    explain.main([NAME, str(image), "--out", str(tmp_path / "heat"), "--stages", "2"])
    assert (tmp_path / "heat" / "stripes.png").is_file()
    export.main([NAME, "--formats", "smp", "--out", str(tmp_path / "smp")])
    assert (tmp_path / "smp" / "smp").is_dir()
    assert contents(registry) == before


def test_python_loads_it_by_its_name(run: Path, registry: Path) -> None:
    expected = load_segmenter(run, torch.device("cpu")).model.state_dict()
    folder = pull(NAME)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    code = snippets(read_segmenter_card(folder), NAME)
    for way in ("python", "smp"):
        assert code[way] in (folder / "README.md").read_text()
        names: dict[str, Any] = {"pixels": pixels, "folder": folder}
        exec(code[way], names)
        network = names["segmenter"].model if way == "python" else names["model"]
        found = network.state_dict()
        assert all(torch.equal(found[key].cpu(), expected[key]) for key in expected)
        if way == "python":
            assert names["mask"].shape == (64, 96)


def test_an_entry_is_not_written_to(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(registry)
    for location in (NAME, str(pull(NAME))):
        with pytest.raises(SystemExit) as end:
            export.main([location, "--formats", "smp"])
        assert end.value.code == EXIT_USER_ERROR
        assert "is published and must not change" in capsys.readouterr().err
    with pytest.raises(UserError, match="is published and must not change"):
        calibrate.calibrate(pull(NAME))
    assert contents(registry) == before


def test_a_published_segmenter_without_calibration_is_reported(
    run: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in ("best.safetensors", "card.json"):
        (bare / file).write_bytes((run / file).read_bytes())
    other = str(tmp_path / "other")
    publish(bare, "bare", other, not_converged=True)
    folder = str(pull(f"{NETWORK}.bare", other))
    capsys.readouterr()  # drop what publishing printed
    predict.main([folder, str(image), "--out", str(tmp_path / "out"), *FEW])
    printed = " ".join(capsys.readouterr().err.split())
    assert "unusual images are not detected" in printed and "downstream.calibrate" not in printed


def test_an_adapted_network_is_not_calibrated(run: Path, tmp_path: Path) -> None:
    adapted = Path(shutil.copytree(run, tmp_path / "adapted"))
    card = read_segmenter_card(adapted)
    write_segmenter_card(adapted, replace(card, config={"method": "bn_adapt"}))
    with pytest.raises(UserError, match=r"is of downstream\.adapt.*downstream\.shift_report"):
        calibrate.calibrate(adapted)
