"""The contact sheet of the augmentations."""

from pathlib import Path

import pytest
from PIL import Image

from pretrain.config import TrainConfig
from pretrain.preview import _columns, main


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


def test_a_strength_of_nought_has_no_column() -> None:
    plain = TrainConfig(arch="resnet18", noise=0, hflip=0, rotation="quarter")
    titles = " ".join(column.title for column in _columns(plain, plain))
    assert "noise" not in titles
    assert "horizontal" not in titles
    assert "quarter turn" in titles


def test_a_mistyped_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--nois", "0.2"])
    assert "nearest is '--noise'" in capsys.readouterr().err
