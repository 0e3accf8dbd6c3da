"""Images of several domains are prepared alike; labels of a target are read on request only."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from downstream.domains.prepare import prepare_source, prepare_target
from downstream.domains.study import DomainStudy, read_domain_study
from downstream.images.scaling import working_shape
from micrograph.cli import UserError

STUDY = """\
classes: [background=0, lath=255]
specimen: "^(plate[0-9]+)"
tile_core: 32
context_margin: 5
source: {data: sem, train: [.], test: [], pixel_size_nm: 20}
targets:
  light:
    data: light
    pixel_size_nm: 80
    invert: true
    field_of_view_um: [2.56, 1.6]
    train: [train]
    test: [test]
"""


def draw(path: Path, height: int, width: int, *, mask: bool = True) -> None:
    """A bright square on dark ground, the square's mask in PATH's _annot folder."""
    rng = np.random.default_rng(len(path.name))
    square = np.zeros((height, width), np.uint8)
    square[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = square // 2 + rng.integers(20, 50, square.shape, np.uint8)
    Image.fromarray(pixels).save(path)
    if mask:
        annotation = path.with_name(path.stem + "_mask.png")
        Image.fromarray(square).save(annotation)


@pytest.fixture
def study(tmp_path: Path) -> DomainStudy:
    for plate in range(5):
        for view in "ab":
            draw(tmp_path / "sem" / f"plate{plate}_{view}.png", 101, 75)
    draw(tmp_path / "light" / "train" / "one.png", 40, 48)
    draw(tmp_path / "light" / "train" / "two.png", 40, 48, mask=False)
    draw(tmp_path / "light" / "test" / "three.png", 40, 48)
    draw(tmp_path / "light" / "test" / "four.png", 40, 48, mask=False)
    (tmp_path / "study.yaml").write_text(STUDY)
    return read_domain_study(tmp_path / "study.yaml", tmp_path)


def test_folds_of_the_source_do_not_split_specimens(study: DomainStudy) -> None:
    held: list[str] = []
    for fold in range(5):
        train, val = prepare_source(study, 5, fold)
        assert len(train) == 8 and len(val) == 2
        assert {image.name[:6] for image in train}.isdisjoint(image.name[:6] for image in val)
        held += [image.name for image in val]
    assert sorted(held) == sorted(f"plate{plate}_{view}" for plate in range(5) for view in "ab")
    with pytest.raises(UserError, match="no fold 5 of 5"):
        prepare_source(study, 5, 5)


def test_halved_odd_sizes_return_to_the_native_size(study: DomainStudy) -> None:
    assert working_shape(1433, 2048, 0.5) == (717, 1024)
    image = prepare_source(study)[0][0]
    assert image.pixels.shape == (51, 38, 3) and image.native_shape == (101, 75)
    assert image.mask is not None and image.native_mask is not None
    assert image.mask.shape == (51, 38) and image.native_mask.shape == (101, 75)
    assert set(np.unique(image.mask)) == {0, 1}
    plan = study.plan(*image.mask.shape)
    stitched = plan.stitch(plan.centre(plan.extract(image.mask))[:, None])[0]
    back = Image.fromarray(stitched).resize(image.native_shape[::-1], Image.Resampling.NEAREST)
    assert (np.asarray(back) == image.native_mask).mean() > 0.97  # all but the square's rim


def test_a_target_is_prepared_to_the_pixel_size_polarity_and_field_of_the_source(
    study: DomainStudy,
) -> None:
    target = prepare_target(study, "light")
    image = target.test[1]
    # 2.56 x 1.6 um are 32 x 20 of its pixels, and each becomes 4 of the source's, then 2.
    assert image.name == "three" and image.native_shape == (20, 32)
    assert image.pixels.shape == (40, 64, 3)
    assert image.mask is not None and image.native_mask is not None
    assert image.pixels[image.mask == 1].mean() < image.pixels[image.mask == 0].mean()  # inverted
    assert image.native_mask.mean() == pytest.approx(24 * 20 / 640, abs=0.02)  # the centre is kept


def test_labels_of_a_target_are_not_read(study: DomainStudy) -> None:
    (study.target("light").data / "train" / "one_mask.png").write_bytes(b"no mask at all")
    target = prepare_target(study, "light")
    assert [image.name for image in target.train] == ["one", "two"]
    assert all(image.mask is None and image.native_mask is None for image in target.train)
    unlabelled = {image.name: image.mask is None for image in target.test}
    assert unlabelled == {"four": True, "three": False}
    with pytest.raises(UserError, match="labelled: true"):
        prepare_target(study, "light", with_labels=True)


def test_labels_of_a_target_are_read_on_request(tmp_path: Path) -> None:
    draw(tmp_path / "sem" / "a.png", 64, 64)
    draw(tmp_path / "t" / "b.png", 64, 64)
    text = (
        "{classes: [a=0, b=255], source: {data: sem, train: [.]},"
        " targets: {t: {data: t, train: [.], test: [.], labelled: true}}}"
    )
    (tmp_path / "study.yaml").write_text(text)
    study = read_domain_study(tmp_path / "study.yaml", tmp_path)
    images = prepare_target(study, "t", with_labels=True)
    assert images.train[0].mask is not None
    assert prepare_target(study, "t").train[0].mask is None
    draw(tmp_path / "t" / "unlabelled.png", 64, 64, mask=False)
    with pytest.raises(UserError, match=r"unlabelled\.png has no mask"):
        prepare_target(study, "t", with_labels=True)


def test_two_images_of_one_name_are_rejected(study: DomainStudy) -> None:
    """Their predictions would be one file."""
    draw(study.target("light").data / "test" / "four.tif", 40, 48, mask=False)
    with pytest.raises(UserError, match="two images named 'four'"):
        prepare_target(study, "light")


def test_missing_files_are_reported(study: DomainStudy, tmp_path: Path) -> None:
    text = STUDY.replace("train: [train]", "train: [trian]")
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(UserError, match="'trian'"):
        prepare_target(read_domain_study(tmp_path / "study.yaml", tmp_path), "light")
    with pytest.raises(UserError, match="no such folder"):
        prepare_source(read_domain_study(tmp_path / "study.yaml", tmp_path / "nowhere"))
    (tmp_path / "study.yaml").write_text(STUDY.replace("lath=255", "lath=255, pore=7"))
    with pytest.raises(UserError, match="contains pore"):
        prepare_source(read_domain_study(tmp_path / "study.yaml", tmp_path))
