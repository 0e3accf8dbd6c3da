"""Draws become pixels on the CPU: TurboJPEG, Pillow and numpy, in a pool of threads.

DALI does this on GPUs (dali_pixels.py), and could here. But its CPU operators take 2 to 3 times as
long (milliseconds of one core per 224-px grey image from a 512-px JPEG, `make bench`: resize 0.68
against 0.33, and arithmetic on floats far more than numpy's), and it can not hold decoded images.
Both ways take the same steps: an antialiased resize of a region with a triangle filter, a
transposition, a bilinear rotation, rounded to bytes after each; then contrast, brightness, noise
and normalisation in floats. Tests hold them to the same pictures, to within rounding.

All of it releases Python's lock, and none of it uses OpenMP, whose threads would spin against
those of the network.
"""

import io
import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image

from pretrain.augment import Draws, Floats, noise_bank
from pretrain.config import TrainConfig
from pretrain.order import Ids
from pretrain.resident import Arena
from pretrain.store import ShardSplit

PREFETCH = 2  # batches in the making while one is used
PIECES = 4  # tasks per thread and batch: fewer leave threads idle at a batch's end

Pixels = npt.NDArray[np.uint8]
Work = tuple[Ids, Draws]  # samples, and what is done to each


class HostPixels:
    """Makes batches of normalised pixels from a split, ahead of their use."""

    def __init__(
        self, data: ShardSplit, config: TrainConfig, threads: int, arena: Arena | None
    ) -> None:
        self._data = data
        self._arena = arena
        self._side = config.image_size
        self._bank = noise_bank(config)
        self._scale = 1 / np.array(data.manifest.std, np.float32)
        self._offset = -np.array(data.manifest.mean, np.float32) * self._scale
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pixels")

    def batches(self, work: Iterable[Work]) -> Iterator[torch.Tensor]:
        """`(N, 3, side, side)` float32 in channels-last order for each item of `work`."""
        pending: deque[tuple[torch.Tensor, list[Future[None]]]] = deque()
        try:
            for samples, draws in work:
                pending.append(self._start(samples, draws))
                if len(pending) > PREFETCH:
                    yield _finished(*pending.popleft())
            while pending:
                yield _finished(*pending.popleft())
        finally:  # also where the caller leaves an epoch before its end
            for _, tasks in pending:
                for task in tasks:
                    task.cancel()

    def _start(self, samples: Ids, draws: Draws) -> tuple[torch.Tensor, list[Future[None]]]:
        images = torch.empty(len(samples), self._side, self._side, 3)
        rows = np.arange(len(samples))
        pieces = np.array_split(rows, max(1, min(len(rows), PIECES * self._threads)))
        tasks = [self._pool.submit(self._make, piece, samples, draws, images) for piece in pieces]
        return images.permute(0, 3, 1, 2), tasks

    def _make(self, rows: Ids, samples: Ids, draws: Draws, images: torch.Tensor) -> None:
        out = images.numpy()
        scratch = np.empty((2, self._side, self._side), np.float32)
        for row in rows:
            image = self._image(int(samples[row]))
            self._expose(shape_image(image, draws, row, self._side), draws, row, out[row], scratch)

    def _image(self, sample: int) -> Pixels:
        """The stored image, `(H, W, C)`."""
        held = self._arena.get(sample) if self._arena else None
        if held is not None:
            return held.numpy()
        (encoded,) = self._data.read(np.array([sample]))
        try:
            image = decode(encoded, self._data.manifest.channels)
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's two, TurboJPEG's
            raise self._data.broken(sample, error) from error
        if self._arena:
            self._arena.put(sample, torch.from_numpy(image))
        return image

    def _expose(self, image: Pixels, draws: Draws, row: int, out: Floats, scratch: Floats) -> None:
        """Contrast, brightness, noise, normalisation, one grey channel to three: into `out`."""
        value, grain = scratch
        if draws.noise[row]:
            top, left = draws.noise_at[row]
            bank = self._bank[top : top + self._side, left : left + self._side]
            np.multiply(bank, draws.noise[row], out=grain)
            grain += draws.shift[row]
        else:
            grain[:] = draws.shift[row]
        factor = draws.contrast[row] / np.float32(255)
        for channel in range(3):
            if channel < image.shape[2]:
                np.multiply(image[:, :, channel], factor, out=value)
                value += grain
            scaled = value * self._scale[channel]
            np.add(scaled, self._offset[channel], out=out[:, :, channel])


def decode(encoded: Pixels, channels: int) -> Pixels:
    """A stored JPEG or PNG as `(H, W, channels)`. The shards hold no other kind."""
    if encoded[0] == 0xFF:  # JPEG
        return simplejpeg.decode_jpeg(encoded, "GRAY" if channels == 1 else "RGB")  # type: ignore[no-any-return]
    with Image.open(io.BytesIO(encoded.tobytes())) as image:
        pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def shape_image(image: Pixels, draws: Draws, row: int, side: int) -> Pixels:
    """The geometric part of row `row` of `draws`: `(H, W, C)` to `(side, side, C)`."""
    channels = image.shape[2]
    source = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    start, end = draws.roi_start[row], draws.roi_end[row]
    # Float32 may put a bound beyond the edge by less than a thousandth of a pixel.
    low = np.maximum(np.minimum(start, end), 0).tolist()
    high = np.minimum(np.maximum(start, end), image.shape[:2]).tolist()
    height, width = draws.size[row].astype(int).tolist()
    region = source.resize(
        (width, height), Image.Resampling.BILINEAR, box=(low[1], low[0], high[1], high[0])
    )
    shaped = np.asarray(region).reshape(height, width, channels)
    # Flips and the transposition are views; numpy follows them when it reads.
    shaped = shaped[:: _step(start[0], end[0]), :: _step(start[1], end[1])]
    if draws.transposes[row]:
        shaped = shaped.transpose(1, 0, 2)
    if draws.rotates[row]:
        shaped = _rotated(np.ascontiguousarray(shaped), float(draws.angle[row]), side)
    return shaped


def _rotated(image: Pixels, degrees: float, side: int) -> Pixels:
    """The centre of an image, `side` wide, turned counter-clockwise."""
    height, width, channels = image.shape
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    half = side / 2
    # x_in = a x + b y + c, y_in = d x + e y + f, from output to input.
    across = (cosine, -sine, width / 2 - (cosine - sine) * half)
    down = (sine, cosine, height / 2 - (sine + cosine) * half)
    turned = Image.fromarray(image[:, :, 0] if channels == 1 else image).transform(
        (side, side), Image.Transform.AFFINE, (*across, *down), Image.Resampling.BILINEAR
    )
    return np.asarray(turned).reshape(side, side, channels)


def _step(start: float, end: float) -> int:
    return -1 if start > end else 1


def _finished(images: torch.Tensor, tasks: list[Future[None]]) -> torch.Tensor:
    for task in tasks:
        task.result()
    return images
