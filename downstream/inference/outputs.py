"""Write the outputs of one image band by band: mask, uncertainty maps, probabilities, overlay."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from downstream.images.blend import Maps
from downstream.images.scan import ImageReader
from downstream.inference.config import PredictConfig
from downstream.inference.ensemble import entropy
from downstream.inference.legend import Legend
from downstream.inference.mask_writer import MaskWriter, suffix_for
from downstream.scoring.overlays import Panel, class_colour, contact_sheet, overlay
from shards.images.decode import Pixels

OVERLAY_SIDE = 1024  # pixels


@dataclass(frozen=True, slots=True)
class Totals:
    """Statistics over the pixels of an image."""

    counts: npt.NDArray[np.int64]  # pixels of each class
    entropy: float  # mean, 0 to 1
    disagreement: float  # mean, 0 to 1; 0 for one run


class OutputWriter:
    """Takes the bands of one image in order; without `finish`, no file is left."""

    def __init__(
        self, config: PredictConfig, reader: ImageReader, legend: Legend, members: int
    ) -> None:
        self._config, self._reader, self._legend = config, reader, legend
        self._stack = ExitStack()
        self._counts = np.zeros(len(legend.classes), np.int64)
        self._sums = np.zeros(2)
        size = (reader.height, reader.width)
        suffix = suffix_for(reader.height * reader.width)
        self._mask = self._open(config.out / f"{reader.name}{suffix}", legend.palette)
        self._entropy = self._disagreement = None
        if config.uncertainty:
            self._entropy = self._open(config.out / "entropy" / f"{reader.name}{suffix}")
            if members > 1:
                folder = config.out / "disagreement"
                self._disagreement = self._open(folder / f"{reader.name}{suffix}")
        self._kept: npt.NDArray[np.float16] | None = None
        self._kept_path = config.out / "probabilities" / f"{reader.name}.npy"
        if config.probabilities:
            self._kept_path.parent.mkdir(parents=True, exist_ok=True)
            self._kept = np.lib.format.open_memmap(
                self._partial, "w+", np.float16, (len(legend.classes), *size)
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._partial.unlink(missing_ok=True)

    def add(self, top: int, maps: Maps) -> None:
        """Append rows from `top`: mean probabilities `(C, h, W)`, then the mean entropy."""
        probabilities, members_entropy = maps[:-1], maps[-1]
        labels = probabilities.argmax(0)
        self._counts += np.bincount(labels.ravel(), minlength=len(self._counts))
        self._mask.add(self._legend.values[labels])
        uncertainty = entropy(torch.from_numpy(probabilities)[None])[0].numpy()
        disagreement = np.maximum(uncertainty - members_entropy, 0)
        self._sums += uncertainty.sum(dtype=np.float64), disagreement.sum(dtype=np.float64)
        if self._entropy is not None:
            self._entropy.add(_to_uint8(uncertainty))
        if self._disagreement is not None:
            self._disagreement.add(_to_uint8(disagreement))
        if self._kept is not None:
            self._kept[:, top : top + probabilities.shape[1]] = probabilities

    def finish(self) -> Totals:
        """Write the remaining files, the mask last."""
        if self._config.overlay:
            self._draw_overlay()
        if self._kept is not None:
            self._kept = None  # flushes and closes the memory map
            self._partial.replace(self._kept_path)
        for writer in (self._entropy, self._disagreement, self._mask):
            if writer is not None:
                writer.finish()
        pixels = self._reader.height * self._reader.width
        return Totals(self._counts, *(self._sums / pixels))

    @property
    def mask_name(self) -> str:
        """File name of the mask."""
        return self._mask.path.name

    @property
    def _partial(self) -> Path:
        return self._kept_path.with_name(f".{self._kept_path.name}.partial")

    def _open(self, path: Path, palette: Pixels | None = None) -> MaskWriter:
        writer = MaskWriter(path, self._reader.height, self._reader.width, palette)
        return self._stack.enter_context(writer)

    def _draw_overlay(self) -> None:
        pixels, step = self._reader.thumbnail(OVERLAY_SIDE)
        lookup = np.zeros(256, np.int64)
        lookup[self._legend.values] = np.arange(len(self._legend.values))
        mask = lookup[self._mask.every(step)]
        fractions = self._counts / self._counts.sum()
        names = {
            f"{name} {fraction:.1%}": class_colour(index)
            for index, (name, fraction) in enumerate(
                zip(self._legend.names, fractions, strict=True)
            )
        }
        shown = f"every {step}th pixel" if step > 1 else "image"
        rows = [[Panel(pixels, shown), Panel(overlay(pixels, mask), "classes")]]
        picture = contact_sheet(rows, names, self._reader.name, min(OVERLAY_SIDE, max(mask.shape)))
        folder = self._config.out / "overlays"
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{self._reader.name}.partial.png"
        picture.save(partial)
        partial.replace(folder / f"{self._reader.name}.png")


def _to_uint8(values: npt.NDArray[np.float32]) -> Pixels:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
