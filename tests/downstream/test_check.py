"""downstream.check: faults, proposals and warnings before training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from downstream.check import main
from downstream.finetune.config import SegmentConfig
from downstream.finetune.labelled_set import read_labelled_set
from micrograph.settings import build_config, read_recipe

MASK = np.zeros((64, 64), np.uint8)
MASK[10:30, 5:20] = 255


@pytest.fixture
def white(tmp_path: Path) -> Path:
    """A set whose masks are 0 and 255."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder, pixels in (
            (split, rng.integers(0, 256, (64, 64), np.uint8)),
            (f"{split}_annot", MASK),
        ):
            (tmp_path / "set" / folder).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / "set" / folder / f"050317#3_S00{split}1.png")
    return tmp_path / "set"


def test_a_valid_set_passes_and_is_drawn(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(squares), "--out", str(tmp_path)])
    with Image.open(tmp_path / "labels.png") as picture:
        assert len(picture.getcolors(1 << 20) or ()) > 20
    assert "class1=1" in capsys.readouterr().out


def test_the_proposed_mapping_can_be_passed_back(
    white: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        main([str(white), "--out", str(out)])
    assert end.value.code == 1
    assert "0, 255, not 0, 1, 2" in capsys.readouterr().out
    main([str(white), "--config", str(out / "classes.yaml"), "--out", str(out)])
    assert "fault" not in capsys.readouterr().out
    recipe = read_recipe(out / "classes.yaml")
    data = read_labelled_set(build_config(SegmentConfig, recipe | {"data": white}))
    assert np.array_equal(data.train[0].mask, MASK == 255)


def test_all_faults_are_reported_together(
    white: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(MASK).save(white / "train_annot" / "orphan.png")
    Image.fromarray(MASK).save(white / "train" / "bare.png")
    Image.fromarray(MASK[:32]).save(white / "val" / "small.png")
    Image.fromarray(MASK).save(white / "val_annot" / "small.png")
    Image.fromarray(MASK).save(white / "val" / "lossy.png")
    Image.fromarray(MASK).save(white / "val_annot" / "lossy.jpg")
    flags = ["--classes", "rest=0", "oxide=255", "--specimen", "^([0-9]+#[0-9]+)_"]
    with pytest.raises(SystemExit):
        main([str(white), "--out", str(tmp_path / "out"), *flags])
    printed = capsys.readouterr()
    for fault in ("bare.png has no mask", "its mask has 64 x 64", "is a JPEG"):
        assert fault in printed.out
    assert "masks without an image: orphan.png" in printed.err
    assert "specimen 050317#3 is in train and val" in printed.err
