"""Preparing images and resizing maps row by row gives the same as doing it at once."""

import numpy as np
import pytest
from PIL import Image

from downstream.images.blend import Band
from downstream.images.prepared import native_bands, prepared_reader
from downstream.images.scan import array_reader


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.285, 0.37])
@pytest.mark.parametrize("invert", [False, True])
def test_rows_are_those_of_the_image_scaled_whole(scale: float, invert: bool) -> None:
    pixels = _noise(143, 90)
    reader = prepared_reader(array_reader("x", pixels), {"scale": scale, "invert": invert})
    method = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.HAMMING
    channels = [Image.fromarray(pixels[..., c].astype(np.float32)) for c in range(3)]
    scaled = [np.asarray(channel.resize(reader.shape[::-1], method)) for channel in channels]
    whole = np.stack(scaled, axis=2).round().clip(0, 255).astype(int)
    parts = [reader.rows(top, top + 17) for top in range(0, reader.height, 17)]
    found = np.concatenate(parts).astype(int)
    assert found.shape == whole.shape
    assert abs(found - (255 - whole if invert else whole)).max() <= 1  # rounding


@pytest.mark.parametrize("native", [(200, 120), (100, 60), (41, 25), (717, 430)])
def test_maps_are_those_of_the_whole_brought_to_native_size(native: tuple[int, int]) -> None:
    maps = np.random.default_rng(1).random((3, 100, 60)).astype(np.float32)
    bands = (Band(top, maps[:, top : top + 7]) for top in range(0, 100, 7))
    found = list(native_bands(bands, (100, 60), native))
    heights = [band.maps.shape[1] for band in found]
    assert [band.top for band in found] == [sum(heights[:n]) for n in range(len(found))]
    bilinear = Image.Resampling.BILINEAR
    whole = [np.asarray(Image.fromarray(v).resize(native[::-1], bilinear)) for v in maps]
    np.testing.assert_allclose(np.concatenate([b.maps for b in found], axis=1), whole, atol=1e-5)
