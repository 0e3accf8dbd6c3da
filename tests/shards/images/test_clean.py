"""Cleaning: bars are cut off, masks refused; each by a policy, recorded, undone by another."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from written_sets import samples_of, write_set

from shards.images.annotations import MANY_MARKS
from shards.images.clean import clean_image
from shards.images.databar import DataBar
from shards.images.decode import Pixels, RejectedImage
from shards.shard_format.config import WriteConfig
from shards.synthetic.corpus import draw

CONFIG = WriteConfig(source="x", out="y")
SIDE, ROWS = 256, 224  # of the image; of the micrograph above its bar


def _micrograph(index: int = 0) -> Pixels:
    return draw("precipitates", SIDE, seed=0, index=index)[0]


def _with_bar(pixels: Pixels, colour: Any = 255) -> Image.Image:
    image = Image.fromarray(pixels).convert("RGB" if isinstance(colour, tuple) else "L")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, ROWS, SIDE, SIDE), fill=0)
    pen.text((10, ROWS + 8), "HV 20.0 kV  WD 10 mm  500 nm  SE2", fill=colour)
    return image


def _png(image: Image.Image | np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("colour", [255, (255, 210, 0)])
def test_bar_is_cut_off_with_its_colour_or_kept_by_policy(colour: Any) -> None:
    pixels = _micrograph()
    image = _png(_with_bar(pixels, colour))
    cleaned = clean_image(image, CONFIG)
    assert cleaned.bar == DataBar("bottom", ROWS)
    assert cleaned.height == SIDE
    assert np.array_equal(cleaned.pixels, pixels[:ROWS])
    kept = clean_image(image, replace(CONFIG, data_bars="keep"))
    assert kept.bar is None
    assert kept.pixels.shape == ((SIDE, SIDE) if colour == 255 else (SIDE, SIDE, 3))


def test_bar_does_not_spoil_the_window_of_a_deep_image() -> None:
    # 12 bits in 16: the bar's white is 65535, the micrograph ends at 4080.
    deep = _micrograph().astype(np.uint16) * 16
    bar = np.asarray(_with_bar(_micrograph()))[ROWS:].astype(np.uint16) * 257
    deep[ROWS:] = bar
    cleaned = clean_image(_png(deep), CONFIG)
    assert cleaned.bar == DataBar("bottom", ROWS)
    (window,) = (note for note in cleaned.notes.values() if note.startswith("windowed"))
    assert float(window.split("..")[1].split()[0]) <= 4080
    assert cleaned.pixels.max() == 255
    assert cleaned.pixels.std() > 20


def test_image_that_is_all_bar_is_too_small() -> None:
    image = Image.new("L", (SIDE, 40), 0)
    image.paste(Image.fromarray(_micrograph()[:30]), (0, 0))
    ImageDraw.Draw(image).text((10, 30), "HV 20.0 kV  WD 10 mm", fill=255)
    with pytest.raises(RejectedImage) as caught:
        clean_image(_png(image), CONFIG)
    assert caught.value.reason == "too_small"


@pytest.mark.parametrize(
    "mask",
    [
        np.kron(np.arange(4).reshape(2, 2), np.ones((64, 64))).astype(np.uint8),
        np.kron(np.arange(16).reshape(4, 4) * 16, np.ones((32, 32))).astype(np.uint8),
        np.kron(np.arange(4).reshape(2, 2) * 900, np.ones((64, 64))).astype(np.uint16),
        np.dstack([np.kron([[0, 255], [255, 0]], np.ones((64, 64))).astype(np.uint8)] * 3),
        (_micrograph() > 128).astype(np.uint8) * 255,
    ],
    ids=["indices", "levels", "deep", "colours", "thresholded"],
)
def test_mask_is_refused_or_kept_by_policy(mask: np.ndarray) -> None:
    with pytest.raises(RejectedImage) as caught:
        clean_image(_png(mask), CONFIG)
    assert caught.value.reason == "mask"
    assert clean_image(_png(mask), replace(CONFIG, masks="keep")).pixels.shape == mask.shape[:2]


@pytest.mark.parametrize("levels", [8, 16, 32])
def test_micrograph_of_few_levels_is_not_a_mask(levels: int) -> None:
    noisy = np.random.default_rng(0).normal(128, 40, (SIDE, SIDE)).clip(0, 255)
    posterised = (noisy // (256 // levels) * (256 // levels)).astype(np.uint8)
    assert clean_image(_png(posterised), CONFIG).pixels.shape == (SIDE, SIDE)


def _annotated(measurements: int) -> Image.Image:
    image = Image.fromarray(_micrograph().clip(20, 200))
    image = image.resize((768, 768))
    pen = ImageDraw.Draw(image)
    for number in range(measurements):
        y = 60 + number * 80
        pen.line((80, y, 400, y), fill=255, width=3)
        pen.line((80, y - 12, 80, y + 12), fill=255, width=3)
        pen.line((400, y - 12, 400, y + 12), fill=255, width=3)
        pen.text((420, y - 10), f"D{number} = 123.4{number} nm", fill=255, font_size=22)
    return image


def test_images_with_many_marks_are_left_out_by_policy() -> None:
    many, one = _png(_annotated(8)), _png(_annotated(1))
    assert clean_image(many, CONFIG).annotations is None  # not searched for
    found = clean_image(many, replace(CONFIG, annotations="find")).annotations
    assert found is not None and found.marks >= MANY_MARKS
    with pytest.raises(RejectedImage) as caught:
        clean_image(many, replace(CONFIG, annotations="discard"))
    assert caught.value.reason == "annotated"
    assert clean_image(one, replace(CONFIG, annotations="discard")).annotations is not None


def test_decisions_are_counted_and_stand_in_the_provenance(
    make_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_corpus(tmp_path / "corpus", {"a": 3})
    (root / "a" / "bar.png").write_bytes(_png(_with_bar(_micrograph(1), (255, 210, 0))))
    (root / "a" / "deep.tif").write_bytes(_png(_micrograph(2).astype(np.uint16) * 16, "TIFF"))
    (root / "a" / "marks.png").write_bytes(_png(_annotated(2)))
    out = tmp_path / "out"
    settings = {"profile": "exact", "annotations": "find", "val_per_class": 0}
    manifest = write_set(root, out, **settings)
    assert manifest.decisions == {
        "colour_channels_equal": 1,
        "data_bar_cropped": 1,
        "depth_windowed": 1,
        "annotations_found": 1,
    }
    assert manifest.channels == 1
    parts = samples_of(out, "train").values()
    said = {content["path"]: content for content in (json.loads(p["json"]) for p in parts)}
    assert said["a/bar.png"]["data_bar"] == {"edge": "bottom", "row": ROWS, "of": SIDE}
    assert said["a/marks.png"]["annotations"]["marks"] >= 6
    assert said["a/marks.png"]["annotations"]["of"] == [768, 768]
