"""The outputs of one image, written as its bands come: mask, maps, overlay, and sums."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from downstream.apply.blend import Maps
from downstream.apply.config import PredictConfig
from downstream.apply.ensemble import entropy
from downstream.apply.legend import Legend
from downstream.apply.raster import RasterWriter, suffix_for
from downstream.apply.scan import Scan
from downstream.seg.pictures import Panel, class_colour, overlay, sheet
from shards.images import Pixels

OVERLAY_SIDE = 1024  # pixels


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over an image's pixels."""

    counts: npt.NDArray[np.int64]  # pixels of each class
    entropy: float  # mean, 0 to 1
    disagreement: float  # mean, 0 to 1; 0 for one run


class PictureWriter:
    """Takes the bands of one image in turn; `finish` names the files, or nothing is left."""

    def __init__(self, config: PredictConfig, scan: Scan, legend: Legend, members: int) -> None:
        self._config, self._scan, self._legend = config, scan, legend
        self._stack = ExitStack()
        self._counts = np.zeros(len(legend.classes), np.int64)
        self._sums = np.zeros(2)
        size = (scan.height, scan.width)
        suffix = suffix_for(config.format, scan.height * scan.width)
        self._mask = self._open(config.out / f"{scan.name}{suffix}", legend.palette)
        self._entropy = self._disagreement = None
        if config.uncertainty:
            self._entropy = self._open(config.out / "entropy" / f"{scan.name}{suffix}")
            if members > 1:
                folder = config.out / "disagreement"
                self._disagreement = self._open(folder / f"{scan.name}{suffix}")
        self._kept: npt.NDArray[np.float16] | None = None
        self._kept_path = config.out / "probabilities" / f"{scan.name}.npy"
        if config.probabilities:
            self._kept_path.parent.mkdir(parents=True, exist_ok=True)
            self._kept = np.lib.format.open_memmap(
                self._partial, "w+", np.float16, (len(legend.classes), *size)
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._partial.unlink(missing_ok=True)

    def add(self, top: int, maps: Maps) -> None:
        """Take rows from `top` on: mean probabilities `(C, h, W)`, then the members' entropy."""
        probabilities, members_entropy = maps[:-1], maps[-1]
        labels = probabilities.argmax(0)
        self._counts += np.bincount(labels.ravel(), minlength=len(self._counts))
        self._mask.add(self._legend.values[labels])
        whole = entropy(torch.from_numpy(probabilities)[None])[0].numpy()
        between = np.maximum(whole - members_entropy, 0)
        self._sums += whole.sum(dtype=np.float64), between.sum(dtype=np.float64)
        if self._entropy is not None:
            self._entropy.add(_to_byte(whole))
        if self._disagreement is not None:
            self._disagreement.add(_to_byte(between))
        if self._kept is not None:
            self._kept[:, top : top + probabilities.shape[1]] = probabilities

    def finish(self) -> Totals:
        """Write what is left, the mask last."""
        if self._config.overlay:
            self._draw_overlay()
        if self._kept is not None:
            self._kept = None  # written and closed
            self._partial.replace(self._kept_path)
        for writer in (self._entropy, self._disagreement, self._mask):
            if writer is not None:
                writer.finish()
        pixels = self._scan.height * self._scan.width
        return Totals(self._counts, *(self._sums / pixels))

    @property
    def mask_name(self) -> str:
        """Of the mask's file."""
        return self._mask.path.name

    @property
    def _partial(self) -> Path:
        return self._kept_path.with_name(f".{self._kept_path.name}.partial")

    def _open(self, path: Path, palette: Pixels | None = None) -> RasterWriter:
        writer = RasterWriter(path, self._scan.height, self._scan.width, palette)
        return self._stack.enter_context(writer)

    def _draw_overlay(self) -> None:
        pixels, step = self._scan.thumbnail(OVERLAY_SIDE)
        lookup = np.zeros(256, np.int64)
        lookup[self._legend.values] = np.arange(len(self._legend.values))
        mask = lookup[self._mask.every(step)]
        shares = self._counts / self._counts.sum()
        names = {
            f"{name} {share:.1%}": class_colour(index)
            for index, (name, share) in enumerate(zip(self._legend.names, shares, strict=True))
        }
        shown = f"every {step}th pixel" if step > 1 else "image"
        rows = [[Panel(pixels, shown), Panel(overlay(pixels, mask), "classes")]]
        picture = sheet(rows, names, self._scan.name, min(OVERLAY_SIDE, max(mask.shape)))
        folder = self._config.out / "overlays"
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{self._scan.name}.partial.png"
        picture.save(partial)
        partial.replace(folder / f"{self._scan.name}.png")


def _to_byte(values: npt.NDArray[np.float32]) -> Pixels:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
