"""Draws become pixels on a GPU: DALI decodes, crops, resizes, rotates; torch does the photometry.

The same pipeline runs on the CPU (`gpu=None`), where the tests compare it with host_pixels.py.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import tee
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.backend import ReleaseUnusedMemory  # type: ignore[attr-defined]  # it has it
from nvidia.dali.tensors import TensorCPU, TensorGPU

from pretrain.augment import Draws, noise_bank
from pretrain.config import TrainConfig
from pretrain.decoding import DecodeName
from pretrain.host_pixels import PREFETCH
from pretrain.order import Ids
from pretrain.resident import Arena
from pretrain.send import send
from pretrain.store import ShardSplit
from shards.cli import UserError

Inputs = tuple[list[Any], Draws]  # stored or decoded images, and what is done to each

_FILL_BATCH = 256  # images decoded at once when an arena is filled
_FILL_BYTES = 2**28  # of a batch of them, decoded

_SHAPING = {  # the fields of `Draws` that DALI takes, with their types
    "roi_start": types.FLOAT,
    "roi_end": types.FLOAT,
    "size": types.FLOAT,
    "transposes": types.BOOL,
    "rotates": types.BOOL,
    "angle": types.FLOAT,
}


class DaliPixels:
    """Makes batches of normalised pixels from a split, ahead of their use."""

    def __init__(
        self,
        data: ShardSplit,
        config: TrainConfig,
        batch_size: int,
        threads: int,
        *,
        device: torch.device,
        decode: DecodeName,
        arena: Arena | None,
    ) -> None:
        """`arena`, if there is one, has been filled."""
        self._data = data
        self._device = device
        self._arena = arena
        gpu = _number(device)
        # Made once: for DALI to wrap a tensor of torch takes longer than all else with an image.
        self._held = [] if arena is None else _wrapped(arena, len(data), gpu)
        self._given: deque[list[Any]] = deque(maxlen=PREFETCH + 2)  # what DALI may still read
        self._side = config.image_size
        self._bank = torch.from_numpy(noise_bank(config)).to(device)
        self._mean = torch.tensor(data.manifest.mean, device=device)
        self._std = torch.tensor(data.manifest.std, device=device)
        self._images: Iterator[list[Any]] = iter(())
        self._draws: Iterator[Draws] = iter(())
        # DALI calls for its inputs in the thread that trains: there, reading would be waiting.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._ahead: deque[Draws] = deque()  # of the batches that DALI has been given
        self._pipeline = _shaping(
            images=self._next_images,
            draws=self._next_draws,
            channels=data.manifest.channels,
            side=config.image_size,
            decode=decode if arena is None else None,
            on_gpu=gpu is not None,
            batch_size=batch_size,
            num_threads=threads,
            device_id=gpu,
        )
        self._pipeline.build()
        self._fresh = True

    def batches(self, work: Iterable[tuple[Ids, Draws]]) -> Iterator[torch.Tensor]:
        """`(N, 3, side, side)` float32 in channels-last order for each item of `work`."""
        self._drain()
        inputs = ((self._read(samples), draws) for samples, draws in work)
        first, second = tee(self._made_ahead(inputs))  # DALI asks for the two separately
        self._images = (images for images, _ in first)
        self._draws = (draws for _, draws in second)
        while True:
            try:
                (shaped,) = _run(self._pipeline, self._data)
            except StopIteration:
                return
            yield self._expose(_to_torch(shaped, self._device), self._ahead.popleft())

    def _drain(self) -> None:
        """Forget what DALI has made ahead: a caller may leave an epoch before its end."""
        self._images, self._draws = iter(()), iter(())
        while not self._fresh:
            try:
                self._pipeline.run()
            except StopIteration:
                self._pipeline.reset()
                break
        self._fresh = False
        self._ahead.clear()

    def _made_ahead(self, inputs: Iterator[Inputs]) -> Iterator[Inputs]:
        """The same, made by another thread, in their order."""
        pending = deque(self._reader.submit(next, inputs, None) for _ in range(PREFETCH))
        while (made := pending.popleft().result()) is not None:
            pending.append(self._reader.submit(next, inputs, None))
            yield made

    def _read(self, samples: Ids) -> list[Any]:
        if self._arena is None:
            return list(self._data.read(samples))
        return [self._held[sample] for sample in samples.tolist()]

    def _next_images(self) -> list[Any]:
        images = next(self._images)
        self._given.append(images)
        return images

    def _next_draws(self) -> list[Any]:
        self._ahead.append(next(self._draws))
        return [getattr(self._ahead[-1], name) for name in _SHAPING]

    def _expose(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Contrast, brightness, noise, normalisation; one grey channel becomes three last."""

        def column(values: Any) -> torch.Tensor:
            return send(values, self._device).view(-1, 1, 1, 1)

        values = images * (column(draws.contrast) / 255) + column(draws.shift)
        if draws.noise.any():
            places = torch.arange(self._side, device=self._device)
            at = send(draws.noise_at.astype(np.int64), self._device)
            grain = self._bank[(at[:, :1] + places)[:, :, None], (at[:, 1:] + places)[:, None, :]]
            values.addcmul_(grain.unsqueeze(-1), column(draws.noise))
        return values.sub(self._mean).div_(self._std).permute(0, 3, 1, 2)


@pipeline_def(  # type: ignore[untyped-decorator]
    prefetch_queue_depth=PREFETCH, enable_conditionals=True
)
def _shaping(
    images: Any, draws: Any, channels: int, side: int, decode: DecodeName | None, on_gpu: bool
) -> Any:
    """Stored images and draws to (side, side, C) uint8; `decode` is None for decoded images."""
    # Decoded images lie where they are wanted; encoded ones come from the host.
    at_gpu = on_gpu and decode is None
    stored = fn.external_source(
        images,
        batch=True,
        dtype=types.UINT8,
        device="gpu" if at_gpu else "cpu",
        # A batch is a list of places in memory: on a GPU they are gathered by one kernel (DALI
        # would copy one by one), on the host they are read where they lie.
        use_copy_kernel=at_gpu,
        no_copy=not at_gpu,
    )
    start, end, size, transposes, rotates, angle = fn.external_source(
        draws, num_outputs=len(_SHAPING), batch=True, dtype=list(_SHAPING.values())
    )
    shaped = stored if decode is None else _decoded(stored, channels, decode)
    if on_gpu:
        shaped = shaped.gpu()
    shaped = fn.resize(
        shaped,
        size=size,
        roi_start=start,
        roi_end=end,
        interp_type=types.INTERP_LINEAR,
        antialias=True,
        dtype=types.UINT8,
    )
    if transposes:
        shaped = fn.transpose(shaped, perm=[1, 0, 2], transpose_layout=False)
    if rotates:
        shaped = fn.rotate(shaped, angle=angle, size=[side, side], interp_type=types.INTERP_LINEAR)
    return shaped


def _decoded(encoded: Any, channels: int, decode: DecodeName) -> Any:
    return fn.decoders.image(
        encoded,
        device="mixed" if decode == "mixed" else "cpu",
        # Never ANY_DATA: DALI 2.4 corrupts its heap on grey JPEGs with it.
        output_type=types.GRAY if channels == 1 else types.RGB,
    )


def fill_arena(
    arena: Arena, data: ShardSplit, device: torch.device, threads: int, decode: DecodeName
) -> None:
    """Decode all images of `data` into `arena`, which lies on `device`.

    Raises `UserError` for an image that cannot be decoded.
    """
    if arena.complete:
        return
    gpu = _number(device)
    largest = int((data.index["height"].astype(int) * data.index["width"]).max())
    size = max(1, min(_FILL_BATCH, _FILL_BYTES // (largest * data.manifest.channels)))
    batches = iter(np.array_split(np.arange(len(data)), -(-len(data) // size)))
    ahead: list[Ids] = []

    def source() -> list[Any]:
        ahead.append(next(batches))
        return data.read(ahead[-1])

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=size,
        num_threads=threads,
        device_id=gpu,
        prefetch_queue_depth=PREFETCH,
    )
    def decoder() -> Any:
        encoded = fn.external_source(source, batch=True, dtype=types.UINT8)
        images = _decoded(encoded, data.manifest.channels, decode)
        return images.gpu() if gpu is not None else images

    pipeline = decoder()
    pipeline.build()
    while not arena.complete:
        (images,) = _run(pipeline, data)
        for number, sample in enumerate(ahead.pop(0)):
            arena.put(int(sample), _image(images[number], gpu))
        if gpu is not None:  # before DALI uses the memory again
            torch.cuda.synchronize(gpu)
    del images, pipeline
    ReleaseUnusedMemory()  # else DALI's pool would keep it from the network


def _run(pipeline: Any, data: ShardSplit) -> Any:
    try:
        return pipeline.run()
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"DALI cannot make a batch of {data.folder}: {said}; a damaged image is "
            f"named by python -m shards.verify {data.folder}"
        ) from error


def _wrapped(arena: Arena, samples: int, gpu: int | None) -> list[Any]:
    """The held images as tensors of DALI's, which share their memory.

    They have their layout: were it the source's, DALI would wrap each image again for each batch.
    """
    wrapped: list[Any] = []
    for sample in range(samples):
        view = arena.get(sample)
        if view is None:  # all after it would be taken for their neighbours
            raise RuntimeError(f"image {sample} of {samples} is not held yet")
        wrapped.append(
            TensorCPU(view.numpy(), "HWC") if gpu is None else TensorGPU(view, "HWC", gpu)
        )
    return wrapped


def _number(device: torch.device) -> int | None:
    """The GPU's, or None for the CPU."""
    return device.index or 0 if device.type == "cuda" else None


def _image(image: Any, gpu: int | None) -> torch.Tensor:
    if gpu is None:
        return torch.from_numpy(np.array(image))
    return torch.utils.dlpack.from_dlpack(image)  # no copy


def _to_torch(pixels: Any, device: torch.device) -> torch.Tensor:
    dense = pixels.as_tensor()
    if device.type == "cuda":
        from nvidia.dali.plugin.pytorch import feed_ndarray

        images = torch.empty(dense.shape(), dtype=torch.uint8, device=device)
        feed_ndarray(dense, images, cuda_stream=torch.cuda.current_stream(device))
        return images
    # No copy: the caller computes from it before DALI reuses the memory at the next run.
    return torch.from_numpy(np.asarray(dense))
