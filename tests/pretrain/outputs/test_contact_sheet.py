"""The contact sheet of the augmentations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.config import TrainConfig
from pretrain.loading.shard_reader import open_split
from pretrain.outputs.contact_sheet import Column, _columns, _render, _row_label
from pretrain.preview import main


def test_the_sheet_is_written_and_fits_a_screen(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheets" / "preview.png"
    main(["--shards", str(shards), "--out", str(out), "--image-size", "32", "--noise", "0.2"])
    assert str(out) in capsys.readouterr().out
    with Image.open(out) as sheet:
        assert sheet.size[0] <= 2560
        assert sheet.size[1] <= 1440
        assert len(sheet.convert("L").getcolors() or []) > 100  # pictures, not blank cells


def test_mixing_and_balance_are_shown_if_on(shards: Path, tmp_path: Path) -> None:
    still: dict[str, Any] = {"brightness": 0.0, "contrast": 0.0, "noise": 0.0}  # nothing is cut off
    mixing = TrainConfig(arch="resnet18", mixup=0.4, cutmix=1.0, mix_prob=0.5, **still)
    titles = [column.title for column in _columns(mixing, mixing)]
    assert [title.split(",")[0] for title in titles[-2:]] == ["mixup", "cutmix"]
    data, samples = open_split(shards, "train"), np.array([0, 20, 40])
    mixed, notes = _render(data, samples, _columns(mixing, mixing)[-2], 0)
    plain, _ = _render(data, samples, Column("", {}, mixing), 0)
    for row, note in enumerate(notes):
        own = int(note.removesuffix("% its own")) / 100
        expected = own * plain[row] + (1 - own) * plain[(row + 1) % 3]
        assert abs(mixed[row] - expected).max() < 0.01
    off = TrainConfig(arch="resnet18", mixup=0.4, mix_prob=0.0)
    assert "mixup" not in " ".join(column.title for column in _columns(off, off))
    balanced = TrainConfig(arch="resnet18", class_balance_power=1.0)
    assert _row_label(data, balanced, 0).endswith("16 images,\n16 per epoch")
    assert "images" not in _row_label(data, off, 0)


def test_an_augmentation_that_is_off_has_no_column() -> None:
    plain = TrainConfig(arch="resnet18", noise=0, hflip_prob=0, rotation_mode="quarter")
    titles = " ".join(column.title for column in _columns(plain, plain))
    assert "noise" not in titles
    assert "horizontal" not in titles
    assert "quarter turn" in titles
