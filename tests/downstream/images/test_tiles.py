"""Tiles: windows sum to one, stitching is the identity, sizes do not matter."""

import numpy as np
import pytest
import torch
from torch import nn

from downstream.images.blend import Maps, Tiling, blended_bands
from downstream.images.scan import array_reader
from downstream.images.tiles import plan_axis
from downstream.network.models import create_model
from downstream.network.receptive_field import has_global_context
from micrograph.cli import UserError
from shards.images.decode import Pixels


def predict(pixels: Pixels, tiling: Tiling, network: nn.Module | None = None) -> Maps:
    """The blended softmax of a network; without one, the image itself."""

    @torch.inference_mode()
    def forward(tiles: torch.Tensor, windows: Maps) -> Maps:
        if network is None:
            return tiles.float().numpy()
        return np.asarray(network(tiles.float() / 255).softmax(1).numpy())

    channels = 3 if network is None else 2
    bands = list(blended_bands(array_reader("x", pixels), forward, channels, tiling))
    assert [band.top for band in bands] == list(
        np.cumsum([0] + [band.maps.shape[1] for band in bands[:-1]])
    )
    return np.concatenate([band.maps for band in bands], axis=1)


@pytest.mark.parametrize("size", [(32, 32), (33, 100), (64, 64), (65, 191), (257, 96), (300, 131)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_tile_and_stitch_is_the_identity(size: tuple[int, int], batch_size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for tile, overlap in ((64, 0), (64, 32), (96, 32), (128, 64)):
        stitched = predict(pixels, Tiling(tile, overlap, 32, batch_size))
        assert stitched.shape == (3, *size)
        np.testing.assert_array_equal(np.rint(stitched).transpose(1, 2, 0), pixels)


def test_the_tile_size_changes_nothing_where_the_receptive_field_fits() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 8, 5, padding=2), nn.ReLU(), nn.Upsample(scale_factor=2)]
    layers += [nn.Conv2d(8, 2, 5, padding=2)]
    network = nn.Sequential(*layers).eval()  # sees 2 + 2 * 2 + 2, and 1 for the pooling: 9 pixels
    pixels = np.random.default_rng(1).integers(0, 256, (200, 333, 3), np.uint8)
    whole = predict(pixels, Tiling(512, 32, 32), network)
    for tile, overlap in ((64, 32), (96, 32), (160, 64)):
        assert np.abs(predict(pixels, Tiling(tile, overlap, 32), network) - whole).max() < 1e-6


def test_mirrored_padding_has_no_weight() -> None:
    counted = []

    def forward(tiles: torch.Tensor, windows: Maps) -> Maps:
        counted.append(windows.sum(dtype=np.float64))
        return tiles.float().numpy()

    pixels = np.zeros((70, 101, 3), np.uint8)
    list(blended_bands(array_reader("x", pixels), forward, 3, Tiling(64, 32, 32)))
    assert sum(counted) == pytest.approx(70 * 101)


@pytest.mark.parametrize(("tile", "overlap"), [(50, 0), (64, 48), (64, 64), (64, -32)])
def test_sizes_that_do_not_fit_the_stride_are_rejected(tile: int, overlap: int) -> None:
    with pytest.raises(UserError, match="must be a multiple of 32 pixels"):
        plan_axis(100, tile, overlap, 32)


@pytest.mark.parametrize(
    ("decoder", "arch", "whole"),
    [
        ("Unet", "mobilenet_v2", False),
        ("Unet", "efficientnet-b0", True),  # squeeze and excitation
        ("FPN", "mobilenet_v2", True),  # group norm
        ("PSPNet", "mobilenet_v2", True),
        ("DeepLabV3Plus", "mobilenet_v2", True),
        ("DPT", "tu-vit_tiny_patch16_224", True),  # attention
    ],
)
def test_networks_with_global_context_are_detected(decoder: str, arch: str, whole: bool) -> None:
    model = create_model(decoder, arch, 2)
    assert has_global_context(model) == whole
    assert model.training  # as it was
