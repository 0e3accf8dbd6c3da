"""The GPU pipeline: DALI decodes, crops, resizes and rotates; torch does the photometry.

It runs on the CPU too (`gpu=None`), where the tests compare it with cpu_pipeline.py.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import tee
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.backend import ReleaseUnusedMemory  # type: ignore[attr-defined]
from nvidia.dali.tensors import TensorCPU, TensorGPU

from micrograph.cli import UserError
from pretrain.config import TrainConfig
from pretrain.loading.augment import AugmentParams, noise_bank
from pretrain.loading.cpu_pipeline import PREFETCH
from pretrain.loading.decoder_check import DecodeName
from pretrain.loading.image_cache import DecodedImageCache
from pretrain.loading.sample_order import Ids
from pretrain.loading.shard_reader import ShardReader
from pretrain.network.to_device import to_device

Inputs = tuple[list[Any], AugmentParams]  # encoded or decoded images, and the parameters of each

_FILL_BATCH = 256  # images per batch while the cache is filled
_FILL_BYTES = 2**28  # of decoded images per such batch

_DALI_PARAMS = {  # the fields of `AugmentParams` that DALI takes, with their types
    "roi_start": types.FLOAT,
    "roi_end": types.FLOAT,
    "size": types.FLOAT,
    "transposes": types.BOOL,
    "rotates": types.BOOL,
    "angle": types.FLOAT,
}


class DaliPipeline:
    """Makes batches of normalised pixels from a split, ahead of their use."""

    def __init__(
        self,
        data: ShardReader,
        config: TrainConfig,
        batch_size: int,
        threads: int,
        *,
        device: torch.device,
        decode: DecodeName,
        image_cache: DecodedImageCache | None,
    ) -> None:
        """`image_cache`, if given, is already filled."""
        self._data = data
        self._device = device
        self._image_cache = image_cache
        gpu = _gpu_index(device)
        # Wrapped once: that takes longer than all other work on an image.
        self._cached = [] if image_cache is None else _wrapped(image_cache, len(data), gpu)
        self._in_use: deque[list[Any]] = deque(maxlen=PREFETCH + 2)  # DALI may still read these
        self._side = config.image_size
        self._bank = torch.from_numpy(noise_bank(config)).to(device)
        self._mean = torch.tensor(data.manifest.mean, device=device)
        self._std = torch.tensor(data.manifest.std, device=device)
        self._images: Iterator[list[Any]] = iter(())
        self._params: Iterator[AugmentParams] = iter(())
        # DALI asks for inputs in the training thread, which should not wait for disk reads.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._ahead: deque[AugmentParams] = deque()  # of the batches handed to DALI
        self._pipeline = _geometry_pipeline(
            images=self._next_images,
            params=self._next_params,
            channels=data.manifest.channels,
            side=config.image_size,
            decode=decode if image_cache is None else None,
            on_gpu=gpu is not None,
            batch_size=batch_size,
            num_threads=threads,
            device_id=gpu,
        )
        self._pipeline.build()
        self._fresh = True

    def batches(self, work: Iterable[tuple[Ids, AugmentParams]]) -> Iterator[torch.Tensor]:
        """`(N, 3, side, side)` float32 in channels-last order for each item of `work`."""
        self._drain()
        inputs = ((self._read(samples), params) for samples, params in work)
        first, second = tee(self._prefetched(inputs))  # DALI reads the two separately
        self._images = (images for images, _ in first)
        self._params = (params for _, params in second)
        while True:
            try:
                (resized,) = _run(self._pipeline, self._data)
            except StopIteration:
                return
            yield self._adjust_and_normalize(
                _to_torch(resized, self._device), self._ahead.popleft()
            )

    def _drain(self) -> None:
        """Discard prefetched batches: the caller may have stopped before the end of an epoch."""
        self._images, self._params = iter(()), iter(())
        while not self._fresh:
            try:
                self._pipeline.run()
            except StopIteration:
                self._pipeline.reset()
                break
        self._fresh = False
        self._ahead.clear()

    def _prefetched(self, inputs: Iterator[Inputs]) -> Iterator[Inputs]:
        """The same inputs in the same order, read ahead by another thread."""
        pending = deque(self._reader.submit(next, inputs, None) for _ in range(PREFETCH))
        while (batch := pending.popleft().result()) is not None:
            pending.append(self._reader.submit(next, inputs, None))
            yield batch

    def _read(self, samples: Ids) -> list[Any]:
        if self._image_cache is None:
            return list(self._data.read(samples))
        return [self._cached[sample] for sample in samples.tolist()]

    def _next_images(self) -> list[Any]:
        images = next(self._images)
        self._in_use.append(images)
        return images

    def _next_params(self) -> list[Any]:
        self._ahead.append(next(self._params))
        return [getattr(self._ahead[-1], name) for name in _DALI_PARAMS]

    def _adjust_and_normalize(self, images: torch.Tensor, params: AugmentParams) -> torch.Tensor:
        """Contrast, brightness, noise, normalisation; grey becomes three channels last."""

        def column(values: Any) -> torch.Tensor:
            return to_device(values, self._device).view(-1, 1, 1, 1)

        values = images * (column(params.contrast) / 255) + column(params.shift)
        if params.noise.any():
            places = torch.arange(self._side, device=self._device)
            at = to_device(params.noise_at.astype(np.int64), self._device)
            grain = self._bank[(at[:, :1] + places)[:, :, None], (at[:, 1:] + places)[:, None, :]]
            values.addcmul_(grain.unsqueeze(-1), column(params.noise))
        return values.sub(self._mean).div_(self._std).permute(0, 3, 1, 2)


@pipeline_def(  # type: ignore[untyped-decorator]
    prefetch_queue_depth=PREFETCH, enable_conditionals=True
)
def _geometry_pipeline(
    images: Any, params: Any, channels: int, side: int, decode: DecodeName | None, on_gpu: bool
) -> Any:
    """Images and parameters to (side, side, C) uint8; `decode` is None for decoded images."""
    # Cached images are on the device already; encoded ones come from the host.
    at_gpu = on_gpu and decode is None
    stored = fn.external_source(
        images,
        batch=True,
        dtype=types.UINT8,
        device="gpu" if at_gpu else "cpu",
        # A batch is a list of memory addresses: on a GPU one kernel gathers them (DALI would copy
        # them one by one), on the host they are read in place.
        use_copy_kernel=at_gpu,
        no_copy=not at_gpu,
    )
    start, end, size, transposes, rotates, angle = fn.external_source(
        params, num_outputs=len(_DALI_PARAMS), batch=True, dtype=list(_DALI_PARAMS.values())
    )
    resized = stored if decode is None else _decoded(stored, channels, decode)
    if on_gpu:
        resized = resized.gpu()
    resized = fn.resize(
        resized,
        size=size,
        roi_start=start,
        roi_end=end,
        interp_type=types.INTERP_LINEAR,
        antialias=True,
        dtype=types.UINT8,
    )
    if transposes:
        resized = fn.transpose(resized, perm=[1, 0, 2], transpose_layout=False)
    if rotates:
        resized = fn.rotate(
            resized, angle=angle, size=[side, side], interp_type=types.INTERP_LINEAR
        )
    return resized


def _decoded(encoded: Any, channels: int, decode: DecodeName) -> Any:
    return fn.decoders.image(
        encoded,
        device="mixed" if decode == "mixed" else "cpu",
        # Never ANY_DATA: DALI 2.4 corrupts its heap on grey JPEGs with it.
        output_type=types.GRAY if channels == 1 else types.RGB,
    )


def fill_image_cache(
    image_cache: DecodedImageCache,
    data: ShardReader,
    device: torch.device,
    threads: int,
    decode: DecodeName,
) -> None:
    """Decode all images of `data` into `image_cache` on `device`.

    Raises `UserError` for an image that cannot be decoded.
    """
    if image_cache.complete:
        return
    gpu = _gpu_index(device)
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
    while not image_cache.complete:
        (images,) = _run(pipeline, data)
        for number, sample in enumerate(ahead.pop(0)):
            image_cache.put(int(sample), _image(images[number], gpu))
        if gpu is not None:  # DALI reuses its memory
            torch.cuda.synchronize(gpu)
    del images, pipeline
    ReleaseUnusedMemory()  # so that the network can use the memory of DALI's pool


def _run(pipeline: Any, data: ShardReader) -> Any:
    try:
        return pipeline.run()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"DALI cannot make a batch of {data.folder}: {reason}; "
            f"find damaged images with python -m shards.verify {data.folder}"
        ) from error


def _wrapped(image_cache: DecodedImageCache, samples: int, gpu: int | None) -> list[Any]:
    """The cached images as DALI tensors that share their memory.

    The tensors carry the layout; given to the source, it would make DALI wrap every image again for
    every batch.
    """
    wrapped: list[Any] = []
    for sample in range(samples):
        view = image_cache.get(sample)
        if view is None:
            raise RuntimeError(f"image {sample} of {samples} is not cached yet")
        wrapped.append(
            TensorCPU(view.numpy(), "HWC") if gpu is None else TensorGPU(view, "HWC", gpu)
        )
    return wrapped


def _gpu_index(device: torch.device) -> int | None:
    """The index of the GPU, or None for the CPU."""
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
    # No copy: the caller uses it before DALI reuses the memory in the next run.
    return torch.from_numpy(np.asarray(dense))
