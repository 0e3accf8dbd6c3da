"""The CPU pipeline: TurboJPEG, Pillow and numpy in a thread pool.

DALI's CPU operators take 2 to 3 times as long (`make bench`, one core, 224-px grey crop of a
512-px JPEG: resize 0.68 ms against 0.33 ms; float arithmetic is slower still) and cannot cache
decoded images. Both pipelines take the same steps: an antialiased resize of a region with a
triangle filter, a transposition and a bilinear rotation, each rounded to bytes; then contrast,
brightness, noise and normalisation in floats. Tests compare their images, which agree to within
rounding.

All steps release the GIL, and none uses OpenMP, whose threads would compete with the network's.
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

from pretrain.config import TrainConfig
from pretrain.loading.augment import AugmentParams, Floats, noise_bank
from pretrain.loading.image_cache import DecodedImageCache
from pretrain.loading.sample_order import Ids
from pretrain.loading.shard_reader import ShardReader

PREFETCH = 2  # batches being made while one is used
PIECES = 4  # tasks per thread and batch; with fewer, threads idle at the end of a batch

Pixels = npt.NDArray[np.uint8]
Work = tuple[Ids, AugmentParams]  # samples and their parameters


class CpuPipeline:
    """Makes batches of normalised pixels from a split, ahead of their use."""

    def __init__(
        self,
        data: ShardReader,
        config: TrainConfig,
        threads: int,
        image_cache: DecodedImageCache | None,
    ) -> None:
        self._data = data
        self._image_cache = image_cache
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
            for samples, params in work:
                pending.append(self._start(samples, params))
                if len(pending) > PREFETCH:
                    yield _finished(*pending.popleft())
            while pending:
                yield _finished(*pending.popleft())
        finally:  # the caller may stop before the end of an epoch
            for _, tasks in pending:
                for task in tasks:
                    task.cancel()

    def _start(
        self, samples: Ids, params: AugmentParams
    ) -> tuple[torch.Tensor, list[Future[None]]]:
        images = torch.empty(len(samples), self._side, self._side, 3)
        rows = np.arange(len(samples))
        pieces = np.array_split(rows, max(1, min(len(rows), PIECES * self._threads)))
        tasks = [self._pool.submit(self._make, piece, samples, params, images) for piece in pieces]
        return images.permute(0, 3, 1, 2), tasks

    def _make(self, rows: Ids, samples: Ids, params: AugmentParams, images: torch.Tensor) -> None:
        out = images.numpy()
        scratch = np.empty((2, self._side, self._side), np.float32)
        for row in rows:
            image = self._image(int(samples[row]))
            self._adjust_and_normalize(
                apply_geometry(image, params, row, self._side), params, row, out[row], scratch
            )

    def _image(self, sample: int) -> Pixels:
        """The stored image, `(H, W, C)`."""
        cached = self._image_cache.get(sample) if self._image_cache else None
        if cached is not None:
            return cached.numpy()
        (encoded,) = self._data.read(np.array([sample]))
        try:
            image = decode(encoded, self._data.manifest.channels)
        except (OSError, SyntaxError, ValueError) as error:  # two of Pillow's, one of TurboJPEG's
            raise self._data.broken(sample, error) from error
        if self._image_cache:
            self._image_cache.put(sample, torch.from_numpy(image))
        return image

    def _adjust_and_normalize(
        self, image: Pixels, params: AugmentParams, row: int, out: Floats, scratch: Floats
    ) -> None:
        """Contrast, brightness, noise, normalisation, grey to three channels; written to `out`."""
        value, grain = scratch
        if params.noise[row]:
            top, left = params.noise_at[row]
            bank = self._bank[top : top + self._side, left : left + self._side]
            np.multiply(bank, params.noise[row], out=grain)
            grain += params.shift[row]
        else:
            grain[:] = params.shift[row]
        factor = params.contrast[row] / np.float32(255)
        for channel in range(3):
            if channel < image.shape[2]:
                np.multiply(image[:, :, channel], factor, out=value)
                value += grain
            scaled = value * self._scale[channel]
            np.add(scaled, self._offset[channel], out=out[:, :, channel])


def decode(encoded: Pixels, channels: int) -> Pixels:
    """Decode a JPEG or PNG to `(H, W, channels)`. Shards hold no other format."""
    if encoded[0] == 0xFF:  # JPEG
        return simplejpeg.decode_jpeg(encoded, "GRAY" if channels == 1 else "RGB")  # type: ignore[no-any-return]
    with Image.open(io.BytesIO(encoded.tobytes())) as image:
        pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def apply_geometry(image: Pixels, params: AugmentParams, row: int, side: int) -> Pixels:
    """The geometric part of row `row` of `params`: `(H, W, C)` to `(side, side, C)`."""
    channels = image.shape[2]
    source = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    start, end = params.roi_start[row], params.roi_end[row]
    # In float32 a bound may be outside by less than a thousandth of a pixel.
    low = np.maximum(np.minimum(start, end), 0).tolist()
    high = np.minimum(np.maximum(start, end), image.shape[:2]).tolist()
    height, width = params.size[row].astype(int).tolist()
    region = source.resize(
        (width, height), Image.Resampling.BILINEAR, box=(low[1], low[0], high[1], high[0])
    )
    resized = np.asarray(region).reshape(height, width, channels)
    # Flips and the transposition are views.
    resized = resized[:: _step(start[0], end[0]), :: _step(start[1], end[1])]
    if params.transposes[row]:
        resized = resized.transpose(1, 0, 2)
    if params.rotates[row]:
        resized = _rotated(np.ascontiguousarray(resized), float(params.angle[row]), side)
    return resized


def _rotated(image: Pixels, degrees: float, side: int) -> Pixels:
    """The central square of an image, `side` wide, rotated counter-clockwise."""
    height, width, channels = image.shape
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    half = side / 2
    # x_in = a x + b y + c, y_in = d x + e y + f, from output to input.
    across = (cosine, -sine, width / 2 - (cosine - sine) * half)
    down = (sine, cosine, height / 2 - (sine + cosine) * half)
    rotated = Image.fromarray(image[:, :, 0] if channels == 1 else image).transform(
        (side, side), Image.Transform.AFFINE, (*across, *down), Image.Resampling.BILINEAR
    )
    return np.asarray(rotated).reshape(side, side, channels)


def _step(start: float, end: float) -> int:
    return -1 if start > end else 1


def _finished(images: torch.Tensor, tasks: list[Future[None]]) -> torch.Tensor:
    for task in tasks:
        task.result()
    return images
