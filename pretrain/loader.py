"""Shards become batches: one DALI pipeline, on the GPU or the CPU, fed in the order of order.py.

DALI only decodes and computes pixels. Which samples come, in which order, and what augmentation
each gets are decided on the host (order.py, augment.py) and passed in, so that nothing of it hangs
on the state of a reader.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, pipeline_def, types

from pretrain.augment import Draws, draw_training, draw_validation
from pretrain.config import TrainConfig
from pretrain.order import Ids, Plan, validation_slots
from pretrain.store import ShardSplit

PREFETCH = 2  # batches in the making while one is used
# Gaussian noise comes from one bank, read at a drawn place and scaled: DALI's own generator is
# keyed by the position in the batch and costs five times a resize.
NOISE_BANK_SIDE = 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples ready for the network."""

    images: torch.Tensor  # (N, 3, H, W) float32, channels last, normalised by the manifest's rule
    labels: torch.Tensor  # (N,) int64
    ids: Ids  # (N,) draws (order.py): positions in the split's index, modulo its length


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step's share of this process."""

    number: int  # within the epoch
    samples: int  # of the global batch, over all processes
    slots: int  # how many micro-batches this process has
    batches: Iterator[Batch]


class DaliLoader:
    """Serves one process its part of a split. Not for `accelerator.prepare`: it shards itself."""

    def __init__(
        self,
        data: ShardSplit,
        config: TrainConfig,
        *,
        micro_batch_size: int,
        device: torch.device,
        threads: int,
    ) -> None:
        self._data = data
        self._config = config
        self._device = device
        self._queue: Iterator[tuple[Ids, Draws]] = iter(())
        self._pipeline = _pixels(
            source=self._next_inputs,
            channels=data.manifest.channels,
            side=config.image_size,
            noise_bank=_noise_bank(config),
            on_gpu=device.type == "cuda",
            batch_size=micro_batch_size,
            num_threads=threads,
            device_id=device.index or 0 if device.type == "cuda" else None,
        )
        self._pipeline.build()
        self._fresh = True
        self._mean = torch.tensor(data.manifest.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(data.manifest.std, device=device).view(1, 3, 1, 1)

    def steps(
        self, plan: Plan, epoch: int, first_step: int, rank: int, world: int
    ) -> Iterator[Step]:
        """The steps of an epoch from `first_step` on, each with this process's micro-batches."""
        batches = plan.epoch_batches(epoch)[first_step:]
        slots = [plan.slots(batch, world)[rank::world] for batch in batches]
        flat = [ids for step_slots in slots for ids in step_slots]
        stream = self._stream(flat, epoch)
        for number, (batch, step_slots) in enumerate(zip(batches, slots, strict=True), first_step):
            yield Step(number, len(batch), len(step_slots), _take(stream, len(step_slots)))

    def validation(self, micro_batch_size: int, rank: int, world: int) -> Iterator[Batch]:
        """This process's part of the split, centre crops, in a fixed order."""
        slots = validation_slots(len(self._data), micro_batch_size, rank, world)
        return self._stream(slots, None)

    def _stream(self, slots: Sequence[Ids], epoch: int | None) -> Iterator[Batch]:
        if not slots:
            return
        if not self._fresh:
            self._pipeline.reset()
        self._fresh = False
        self._queue = self._inputs(slots, epoch)
        expected = deque(slots)
        while expected:
            ids = expected.popleft()
            (pixels,) = self._pipeline.run()
            rows = self._data.index[ids % len(self._data)]
            labels = torch.from_numpy(rows["label"].astype(np.int64))
            yield Batch(self._normalise(pixels), labels.to(self._device, non_blocking=True), ids)

    def _inputs(self, slots: Sequence[Ids], epoch: int | None) -> Iterator[tuple[Ids, Draws]]:
        for ids in slots:
            rows = self._data.index[ids % len(self._data)]
            heights, widths = rows["height"], rows["width"]
            if epoch is None:
                yield ids, draw_validation(self._config, heights, widths)
            else:
                yield ids, draw_training(self._config, epoch, ids, heights, widths)

    def _next_inputs(self) -> list[Any]:
        ids, draws = next(self._queue)
        return [
            self._data.read(ids % len(self._data)),
            *(getattr(draws, field.name) for field in fields(Draws)),
        ]

    def _normalise(self, pixels: Any) -> torch.Tensor:
        """DALI's batch of (H, W, C) in [0, 1], C of 1 or 3, to a normalised tensor of our own."""
        images = _to_torch(pixels, self._device).permute(0, 3, 1, 2)
        # A grey image becomes three channels here, as late as possible: subtracting expands it.
        normalised = images.sub(self._mean).div_(self._std)
        return normalised.contiguous(memory_format=torch.channels_last)


def _take(stream: Iterator[Batch], count: int) -> Iterator[Batch]:
    for _ in range(count):
        yield next(stream)


def _noise_bank(config: TrainConfig) -> npt.NDArray[np.float32]:
    side = max(NOISE_BANK_SIDE, 2 * config.image_size)
    generator = np.random.Generator(np.random.Philox(key=config.seed))
    return generator.standard_normal((side, side, 1), dtype=np.float32)


@pipeline_def(  # type: ignore[untyped-decorator]
    prefetch_queue_depth=PREFETCH, enable_conditionals=True
)
def _pixels(
    source: Any, channels: int, side: int, noise_bank: npt.NDArray[np.float32], on_gpu: bool
) -> Any:
    """Encoded bytes and draws to (side, side, C) float in [0, 1], a little beyond after noise."""
    inputs = [types.UINT8] + [
        types.BOOL if field.name == "rotates" else types.FLOAT for field in fields(Draws)
    ]
    encoded, start, end, size, rotates, angle, contrast, shift, noise, noise_at = (
        fn.external_source(source, num_outputs=len(inputs), batch=True, dtype=inputs)
    )
    # Never ANY_DATA: DALI 2.4 corrupts its heap on grey JPEGs with it.
    images = fn.decoders.image(
        encoded,
        device="mixed" if on_gpu else "cpu",
        output_type=types.GRAY if channels == 1 else types.RGB,
    )
    images = fn.resize(
        images,
        size=size,
        roi_start=start,
        roi_end=end,
        interp_type=types.INTERP_LINEAR,
        antialias=True,
    )
    if rotates:
        images = fn.rotate(images, angle=angle, size=[side, side], interp_type=types.INTERP_LINEAR)
    bank = types.Constant(noise_bank, device="gpu" if on_gpu else "cpu")
    grain = fn.crop(bank, crop=(side, side), crop_pos_y=noise_at[0], crop_pos_x=noise_at[1])
    if on_gpu:  # arithmetic wants its operands on one side; the other draws are arguments
        contrast, shift, noise = contrast.gpu(), shift.gpu(), noise.gpu()
    images = images * (contrast / 255.0) + shift + grain * noise
    return images


def _to_torch(pixels: Any, device: torch.device) -> torch.Tensor:
    if device.type == "cuda":
        from nvidia.dali.plugin.pytorch import feed_ndarray

        dense = pixels.as_tensor()
        images = torch.empty(dense.shape(), dtype=torch.float32, device=device)
        feed_ndarray(dense, images, cuda_stream=torch.cuda.current_stream(device))
        return images
    # No copy: the caller computes from it before DALI reuses the memory at the next run.
    return torch.from_numpy(np.asarray(pixels.as_tensor()))
