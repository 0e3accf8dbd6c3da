"""Images and masks are paired by name and split; leaks are noticed."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from downstream.finetune.config import SegmentConfig
from downstream.finetune.labelled_set import read_labelled_set, split_pairs
from downstream.labels.layout import Pair, hold_out, pair_folder
from downstream.labels.specimens import overlapping_images, shared_specimens, specimen_of
from micrograph.cli import UserError

MASK = np.zeros((40, 40), np.uint8)
MASK[10:30, 5:20] = 1


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def micrograph(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 40), np.uint8)


@pytest.fixture
def split_set(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for number in (1, 2):
            save(tmp_path / split / f"a #{number}.png", micrograph(number))
            save(tmp_path / f"{split}_annot" / f"a #{number}_mask.tif", MASK)
    return tmp_path


def test_splits_beside_their_annotations(split_set: Path) -> None:
    data = read_labelled_set(SegmentConfig(data=split_set))
    assert data.class_names == ("class0", "class1")
    assert np.array_equal(data.train[0].mask, MASK)
    assert data.train[0].pixels.shape == (40, 40, 3)
    assert [item.name for item in data.val] == ["a #1", "a #2"]
    assert data.test == ()


def test_named_files_make_a_split(split_set: Path) -> None:
    config = SegmentConfig(data=split_set, train=("train/a #2.png",), test=("train/a #1.png",))
    pairs = split_pairs(config)
    assert {split: [pair.name for pair in found] for split, found in pairs.items()} == {
        "train": ["a #2"],
        "val": ["a #1", "a #2"],
        "test": ["a #1"],
    }
    with pytest.raises(UserError, match=r"has no 'train/b\.png', listed in `train`"):
        split_pairs(SegmentConfig(data=split_set, train=("train/b.png",)))
    with pytest.raises(UserError, match="has no 'nowhere', listed in `test`"):
        split_pairs(SegmentConfig(data=split_set, test=("nowhere",)))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.png", "masks/{}.png"),
        ("images/{}.tif", "labels/{}_label.png"),
        ("{}.png", "{}_mask.png"),
        ("{}.png", "{}-seg.png"),
    ],
)
def test_folders_without_splits_are_split(image: str, mask: str, tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / image.format(f"i{number}"), micrograph(number))
        save(tmp_path / mask.format(f"i{number}"), MASK)
    data = read_labelled_set(SegmentConfig(data=tmp_path))
    assert (len(data.train), len(data.val), len(data.test)) == (2, 1, 0)


def test_a_mask_without_an_image_is_reported_and_not_used(
    split_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (split_set / "train" / "a #2.png").unlink()
    assert len(read_labelled_set(SegmentConfig(data=split_set)).train) == 1
    assert "train: 1 masks without an image: a #2_mask.tif" in capsys.readouterr().err


def test_pairs_that_do_not_fit_are_rejected(split_set: Path) -> None:
    config = SegmentConfig(data=split_set)
    with pytest.raises(UserError, match="no mask contains crack"):
        read_labelled_set(replace(config, classes=("rest=rest", "crack=255")))
    save(split_set / "val_annot" / "a #1_mask.tif", MASK[:20])
    with pytest.raises(UserError, match="has 40 x 40 pixels but its mask has 40 x 20"):
        read_labelled_set(config)
    (split_set / "train_annot" / "a #2_mask.tif").unlink()
    with pytest.raises(UserError, match=r"a #2\.png has no mask"):
        read_labelled_set(config)
    shutil.copy(split_set / "val_annot" / "a #1_mask.tif", split_set / "val_annot" / "a #1.tif")
    with pytest.raises(UserError, match="two masks for one image"):
        pair_folder(split_set / "val")


def test_a_folder_of_data_sets_and_a_missing_one_are_distinguished(tmp_path: Path) -> None:
    save(tmp_path / "Super3" / "train" / "a.png", MASK)
    with pytest.raises(UserError, match="contains several data sets; choose one: Super3"):
        split_pairs(SegmentConfig(data=tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        split_pairs(SegmentConfig(data=tmp_path / "absent"))


def test_folds_do_not_split_specimens() -> None:
    names = [f"s{specimen}_S{number:04d}" for specimen in range(5) for number in range(3)]
    pairs = [Pair(Path(f"{name}.png"), Path(f"{name}_mask.png")) for name in names]
    seen = []
    for fold in range(5):
        train, val = hold_out(pairs, 5, fold)
        assert len(train) + len(val) == 15
        assert not {specimen_of(p.name) for p in train} & {specimen_of(p.name) for p in val}
        seen += val
    assert sorted(pair.name for pair in seen) == names
    with pytest.raises(UserError, match="cannot split 1 labelled images into 2 folds"):
        hold_out(pairs[:1], None, 0)


def test_specimens_by_the_names_of_the_benchmark() -> None:
    assert specimen_of("050317#3_S0440016") == "050317#3_S044"
    assert specimen_of("spot7_180d_3", "^(spot[0-9]+)_") == "spot7"
    assert specimen_of("image_12") is None
    names = {"train": ["050317#3_S0440017", "a1_01"], "test": ["050317#3_S0440016", "b1_01"]}
    assert shared_specimens(names) == {"050317#3_S044": ("train", "test")}


def test_a_copy_under_another_name_is_found() -> None:
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (32, 32), np.uint8) for _ in range(3)]
    images = [np.kron(pixels, np.ones((8, 8), np.uint8)) for pixels in coarse]
    assert overlapping_images([*images, images[1]]) == [(1, 3)]


def test_folds_pool_training_and_validation_images_and_leave_the_test_alone(
    split_set: Path,
) -> None:
    for number in (3, 4):
        save(split_set / "test" / f"t{number}.png", micrograph(number))
        save(split_set / "test_annot" / f"t{number}.png", MASK)
    seen = []
    for fold in range(2):
        config = SegmentConfig(data=split_set, val=("val/a #1.png",), train=("train/a #2.png",))
        pairs = split_pairs(replace(config, folds=2, fold=fold))
        assert len(pairs["train"]) == 1 and len(pairs["test"]) == 2
        seen += [pair.name for pair in pairs["val"]]
    assert sorted(seen) == ["a #1", "a #2"]
