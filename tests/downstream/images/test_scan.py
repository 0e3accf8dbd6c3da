"""Reading in parts gives the same as reading at once; masks are written row by row."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image, ImageDraw, ImageFont

from downstream.images.scan import ImageReader, open_image
from downstream.inference.mask_writer import MaskWriter, suffix_for
from downstream.labels.dataset import read_pixels
from micrograph.cli import UserError


def picture(dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Noise on a slope, far from filling the depth."""
    rng = np.random.default_rng(0)
    slope = np.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
    values = rng.normal(120, 20, shape) + slope / 4
    return np.clip(values, 0, 255).astype(dtype) * (1 if dtype == "uint8" else 37)


def all_rows(reader: ImageReader, step: int = 37) -> npt.NDArray[np.uint8]:
    return np.concatenate([reader.rows(top, top + step) for top in range(0, reader.height, step)])


WAYS: dict[str, dict[str, Any]] = {
    "mapped": {},
    "strips": {"compression": "zlib", "rowsperstrip": 16},
    "tiles": {"compression": "zlib", "tile": (32, 48)},
    "big endian": {"byteorder": ">"},
    "predictor": {"compression": "zlib", "predictor": True, "rowsperstrip": 50},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("dtype", "shape"), [("uint8", (203, 131)), ("uint8", (203, 131, 3)), ("uint16", (203, 131))]
)
def test_a_tiff_read_in_parts_is_that_read_at_once(
    tmp_path: Path, way: str, dtype: str, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, picture(dtype, shape), **WAYS[way])
    whole, parts = open_image(path), open_image(path, whole_pixels=0)
    assert "read in parts" in parts.notes and "read in parts" not in whole.notes
    assert (parts.height, parts.width) == (203, 131)
    difference = all_rows(whole).astype(int) - all_rows(parts).astype(int)
    assert np.abs(difference).max() <= (1 if dtype == "uint16" else 0)  # of a window's rounding


def test_equal_channels_are_grey_in_parts_too(tmp_path: Path) -> None:
    grey = picture("uint8", (203, 131))
    rgb = np.stack([grey, grey + 1, grey], axis=2)  # as of JPEG's rounding
    tifffile.imwrite(tmp_path / "x.tif", rgb)
    parts = open_image(tmp_path / "x.tif", whole_pixels=0)
    assert "equal channels to grey" in parts.notes
    np.testing.assert_array_equal(all_rows(parts), all_rows(open_image(tmp_path / "x.tif")))


@pytest.mark.parametrize("whole_pixels", [0, 1_000_000])
def test_the_upper_8_of_16_bit_rgb_are_read_as_in_training(
    tmp_path: Path, whole_pixels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = picture("uint16", (203, 131))
    tinted = np.stack([grey, grey // 2, grey // 4], axis=2)
    tifffile.imwrite(tmp_path / "tinted.tif", tinted, photometric="rgb")
    reader = open_image(tmp_path / "tinted.tif", whole_pixels=whole_pixels)
    np.testing.assert_array_equal(all_rows(reader), tinted >> 8)
    assert any("upper 8" in note for note in reader.notes)
    pixels = read_pixels(tmp_path / "tinted.tif")
    np.testing.assert_array_equal(pixels, tinted >> 8)
    assert pixels.flags.writeable  # torch warns about other arrays
    assert "16 bits per channel" in capsys.readouterr().err


def test_floats_are_windowed_by_a_sample(tmp_path: Path) -> None:
    values = picture("uint8", (6400, 131)).astype(np.float32) / 7
    tifffile.imwrite(tmp_path / "x.tif", values)
    whole = open_image(tmp_path / "x.tif")
    parts = open_image(tmp_path / "x.tif", whole_pixels=0)
    assert np.abs(all_rows(whole).astype(int) - all_rows(parts)).mean() < 3


def test_files_that_need_pillow_are_read_at_once(tmp_path: Path) -> None:
    Image.fromarray(picture("uint8", (64, 64))).convert("P").save(tmp_path / "palette.tif")
    Image.fromarray(picture("uint8", (64, 64))).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    Image.fromarray(picture("uint8", (64, 64))).save(tmp_path / "grey.png")
    for name in ("palette.tif", "lzw.tif", "grey.png"):
        assert "read in parts" not in open_image(tmp_path / name, whole_pixels=0).notes


def test_the_data_bar_is_cropped(tmp_path: Path) -> None:
    pixels = picture("uint8", (600, 400))
    bar = Image.new("L", (400, 40), 0)
    ImageDraw.Draw(bar).text(
        (20, 8), "15.0 kV  x 5,000  WD 9.8 mm   5 um", 255, ImageFont.load_default(16)
    )
    pixels[560:] = np.asarray(bar)
    tifffile.imwrite(tmp_path / "x.tif", pixels)
    for whole_pixels in (0, 10**6):
        reader = open_image(tmp_path / "x.tif", crop_bar=True, whole_pixels=whole_pixels)
        assert reader.height == 560 and reader.notes[-1] == "data bar from row 560"
        np.testing.assert_array_equal(all_rows(reader)[..., 0], pixels[:560])
    flipped = pixels[::-1].copy()
    tifffile.imwrite(tmp_path / "y.tif", flipped)
    reader = open_image(tmp_path / "y.tif", crop_bar=True)
    np.testing.assert_array_equal(all_rows(reader)[..., 0], flipped[40:])


def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(b"II*\0 and nothing more")
    for path in (tmp_path / "x.tif", tmp_path / "absent.tif"):
        with pytest.raises(UserError, match=f"cannot read {path}"):
            open_image(path)


def test_a_thumbnail_takes_every_kth_pixel(tmp_path: Path) -> None:
    pixels = picture("uint8", (203, 131))
    Image.fromarray(pixels).save(tmp_path / "x.png")
    small, step = open_image(tmp_path / "x.png").thumbnail(64)
    assert step == 4
    np.testing.assert_array_equal(small[..., 1], pixels[::4, ::4])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_mask_written_in_rows_holds_values_and_colours(tmp_path: Path, suffix: str) -> None:
    mask = np.random.default_rng(0).integers(0, 3, (300, 271), np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    palette[:3] = (0, 0, 0), (230, 159, 0), (86, 180, 233)
    with MaskWriter(tmp_path / f"m{suffix}", 300, 271, palette) as writer:
        for top in range(0, 300, 64):
            writer.add(mask[top : top + 64])
        np.testing.assert_array_equal(writer.every(10), mask[::10, ::10])
        writer.finish()
    with Image.open(tmp_path / f"m{suffix}") as image:
        np.testing.assert_array_equal(np.asarray(image), mask)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[mask])
    assert [path.name for path in tmp_path.iterdir()] == [f"m{suffix}"]


def test_an_interrupted_mask_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), MaskWriter(tmp_path / "m.png", 300, 271) as writer:
        writer.add(np.zeros((10, 271), np.uint8))
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_large_masks_are_written_as_tiff() -> None:
    assert [suffix_for(side**2) for side in (2048, 20_000)] == [".png", ".tif"]
