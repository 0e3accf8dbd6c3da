"""How far a prediction depends on the tiles' size: the share of pixels that change their class.

python benchmarks/bench_tiles.py RUN [RUN …] --images IMAGE [IMAGE …]    (several make a mosaic)
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from downstream.images.blend import Tiling, blended_bands
from downstream.images.scan import ImageReader, array_reader, open_image
from downstream.inference.ensemble import Ensemble, Member
from downstream.network.receptive_field import has_global_context
from downstream.network.segmenter import STRIDE, load_segmenter

SIDE = 2048
OVERLAP = 256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--images", nargs="+", type=Path, required=True)
    parser.add_argument("--tiles", nargs="+", type=int, default=[1024, 512])
    options = parser.parse_args()
    torch.set_num_threads(1)
    scan = mosaic(options.images)
    for run in options.runs:
        segmenter = load_segmenter(run)
        card = segmenter.card
        assert card is not None
        ensemble = Ensemble([Member(segmenter)], len(card.classes))
        whole = probabilities(scan, ensemble, Tiling(SIDE, 0, STRIDE))
        pools = "pools over the tile" if has_global_context(segmenter.model) else "does not pool"
        print(f"{card.decoder} on {card.arch}, {pools}; classes {shares(whole)}")
        for tile in options.tiles:
            tiled = probabilities(scan, ensemble, Tiling(tile, OVERLAP, STRIDE))
            changed = (whole.argmax(0) != tiled.argmax(0)).mean()
            furthest = np.abs(whole - tiled).max()
            print(f"  tile {tile}: {changed:.3%} change class, probabilities by {furthest:.1e}")


def mosaic(paths: list[Path]) -> ImageReader:
    """The images side by side, repeated as need be, to a square of `SIDE` pixels."""
    scans = [open_image(path) for path in paths]
    side = min(min(scan.height, scan.width) for scan in scans)
    count = -(-SIDE // side)
    parts = [scan.rows(0, side)[:, :side] for scan in scans]
    rows = [
        np.concatenate([parts[(row * count + column) % len(parts)] for column in range(count)], 1)
        for row in range(count)
    ]
    return array_reader("mosaic", np.ascontiguousarray(np.concatenate(rows)[:SIDE, :SIDE]))


def probabilities(scan: ImageReader, ensemble: Ensemble, tiling: Tiling) -> np.ndarray:
    bands = blended_bands(scan, ensemble, ensemble.channels, tiling)
    return np.concatenate([band.maps for band in bands], 1)[:-1]


def shares(maps: np.ndarray) -> str:
    counts = np.bincount(maps.argmax(0).ravel(), minlength=len(maps))
    return " ".join(f"{count / counts.sum():.1%}" for count in counts)


if __name__ == "__main__":
    main()
