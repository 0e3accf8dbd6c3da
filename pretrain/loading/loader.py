"""The data loader: shards become batches, in the order of sample_order.py, with augmentation.

Sample order and augmentation are decided here and do not depend on the state of a reader. The
pixels are made some batches ahead, by DALI on a GPU (dali_pipeline.py) or by a thread pool on the
CPU (cpu_pipeline.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pretrain.config import TrainConfig
from pretrain.loading.augment import AugmentParams, training_params, validation_params
from pretrain.loading.cpu_pipeline import CpuPipeline
from pretrain.loading.decoder_check import DecodeName
from pretrain.loading.image_cache import DecodedImageCache
from pretrain.loading.sample_order import EpochSampler, Ids, validation_micro_batches
from pretrain.loading.shard_reader import ShardReader
from pretrain.network.to_device import to_device
from shards.shard_format.schema import Index


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples ready for the network."""

    images: torch.Tensor  # (N, 3, H, W) float32, channels last, normalised by the manifest's rule
    labels: torch.Tensor  # (N,) int64
    ids: Ids  # (N,) positions in the split's index, modulo its length (sample_order.py)


@dataclass(frozen=True, slots=True)
class Step:
    """This process's part of one optimizer step."""

    number: int  # within the epoch
    samples: int  # of the global batch, over all processes
    micro_batches: int  # of this process
    batches: Iterator[Batch]


class Loader:
    """Loads this process's part of a split; do not pass it to `accelerator.prepare`."""

    def __init__(
        self,
        data: ShardReader,
        config: TrainConfig,
        *,
        micro_batch_size: int,
        device: torch.device,
        threads: int,
        decode: DecodeName = "cpu",
        image_cache: DecodedImageCache | None = None,
    ) -> None:
        """`decode` is the decoder on a GPU; `image_cache` keeps decoded images, if given."""
        self._data = data
        self._config = config
        self._device = device
        if device.type == "cuda":
            from pretrain.loading.dali_pipeline import DaliPipeline

            self._pipeline: CpuPipeline | DaliPipeline = DaliPipeline(
                data,
                config,
                micro_batch_size,
                threads,
                device=device,
                decode=decode,
                image_cache=image_cache,
            )
        else:
            self._pipeline = CpuPipeline(data, config, threads, image_cache)

    def steps(
        self, sampler: EpochSampler, epoch: int, first_step: int, rank: int, world: int
    ) -> Iterator[Step]:
        """The steps of an epoch, starting at `first_step`, with this process's micro-batches."""
        batches = sampler.epoch_batches(epoch)[first_step:]
        own = [sampler.micro_batches(batch, world)[rank::world] for batch in batches]
        stream = self._stream([ids for step in own for ids in step], epoch)
        for number, (batch, step) in enumerate(zip(batches, own, strict=True), first_step):
            yield Step(number, len(batch), len(step), _take(stream, len(step)))

    def validation(self, micro_batch_size: int, rank: int, world: int) -> Iterator[Batch]:
        """This process's part of the split, centre crops, in a fixed order."""
        own = validation_micro_batches(len(self._data), micro_batch_size, rank, world)
        return self._stream(own, None)

    def _stream(self, micro_batches: Sequence[Ids], epoch: int | None) -> Iterator[Batch]:
        work = ((ids % len(self._data), self._augment_params(ids, epoch)) for ids in micro_batches)
        for ids, images in zip(micro_batches, self._pipeline.batches(work), strict=True):
            labels = self._rows(ids)["label"].astype(np.int64)
            yield Batch(images, to_device(labels, self._device), ids)

    def _augment_params(self, ids: Ids, epoch: int | None) -> AugmentParams:
        rows = self._rows(ids)
        if epoch is None:
            return validation_params(self._config, rows["height"], rows["width"])
        return training_params(self._config, epoch, ids, rows["height"], rows["width"])

    def _rows(self, ids: Ids) -> Index:
        return self._data.index[ids % len(self._data)]


def _take(stream: Iterator[Batch], count: int) -> Iterator[Batch]:
    for _ in range(count):
        yield next(stream)
