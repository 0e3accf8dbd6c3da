"""Images and masks: paired, translated, or refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from downstream.dataset import mask_to_indices, parse_classes, read_labelled_set
from shards.cli import UserError

MASK = np.zeros((40, 40), np.uint8)
MASK[10:30, 5:20] = 1


def make_set(folder: Path, mask: np.ndarray | Image.Image, suffix: str = ".png") -> Path:
    rng = np.random.default_rng(0)
    picture = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
    for split in ("train", "val"):
        for name in (split, f"{split}_annot"):
            (folder / name).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (40, 40), np.uint8)).save(folder / split / "a #1.png")
        picture.save(folder / f"{split}_annot" / f"a #1{suffix}")
    return folder


def test_index_masks_speak_for_themselves(tmp_path: Path) -> None:
    data = read_labelled_set(make_set(tmp_path / "d", MASK), ())
    assert data.classes == ("class0", "class1")
    assert np.array_equal(data.train[0].mask, MASK)
    assert data.train[0].pixels.shape == (40, 40, 3)
    assert data.test == ()


def test_black_and_white_masks_are_refused_with_a_proposal(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "d", MASK * 255)
    with pytest.raises(UserError, match="--classes class0=0 class1=255"):
        read_labelled_set(folder, ())
    data = read_labelled_set(folder, ("rest=0", "crack=255"))
    assert np.array_equal(data.train[0].mask, MASK)


def test_coloured_overlays_are_refused_until_the_colours_are_named(tmp_path: Path) -> None:
    overlay = np.repeat(np.random.default_rng(1).integers(0, 200, (40, 40, 1), np.uint8), 3, axis=2)
    overlay[MASK == 1] = (0, 0, 255)
    folder = make_set(tmp_path / "d", Image.fromarray(overlay).convert("RGBA"), "_mask.tif")
    with pytest.raises(UserError, match="#0000ff"):
        read_labelled_set(folder, ())
    data = read_labelled_set(folder, ("matrix=rest", "secondary=#0000ff"))
    assert np.array_equal(data.train[0].mask, MASK)


def test_a_palettes_indices_are_the_classes(tmp_path: Path) -> None:
    picture = Image.fromarray(MASK).convert("P")
    picture.putpalette([0, 0, 0, 250, 10, 10])
    data = read_labelled_set(make_set(tmp_path / "d", picture), ())
    assert np.array_equal(data.train[0].mask, MASK)


def test_values_without_a_class_are_named() -> None:
    mask = MASK.copy()
    mask[0, 0] = 7
    with pytest.raises(UserError, match="holds values 7, which no class stands for"):
        mask_to_indices(mask, parse_classes(("a=0", "b=1")), "m.png")


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "d", MASK)
    (folder / "train_annot" / "a #1.png").unlink()
    with pytest.raises(UserError, match=r"a #1\.png has no mask"):
        read_labelled_set(folder, ())


def test_sizes_must_agree(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "d", MASK)
    Image.fromarray(MASK[:20]).save(folder / "val_annot" / "a #1.png")
    with pytest.raises(UserError, match=r"is 40 x 40 pixels, its mask 40 x 20"):
        read_labelled_set(folder, ())


@pytest.mark.parametrize(
    "specs",
    [
        ("a=0",),
        ("a=0", "a=1"),
        ("a=rest", "b=rest"),
        ("a=0", "b=red"),
        ("a", "b=1"),
        ("a=1", "b=1"),
        ("=1", "b=2"),
    ],
)
def test_unclear_class_lists_are_refused(specs: tuple[str, ...]) -> None:
    with pytest.raises(UserError):
        parse_classes(specs)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_labelled_set(tmp_path / "absent", ())
