"""How the images of a split are read: by which decoder, and whether they are cached."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pretrain.config import TrainConfig
from pretrain.loading.decoder_check import DecodePath, choose_decode_path
from pretrain.loading.image_cache import DecodedImageCache, decide_caching
from pretrain.loading.shard_reader import ShardReader


@dataclass(frozen=True, slots=True)
class Source:
    """What a loader reads from."""

    data: ShardReader
    decode: DecodePath
    image_cache: DecodedImageCache | None  # None: images are not cached
    summary: str  # both decisions and their reasons, one line


def open_sources(
    splits: Sequence[ShardReader],
    config: TrainConfig,
    device: torch.device,
    processes: int,
    threads: int,
) -> list[Source]:
    """Decide for each split; `processes` share this machine, each with `threads` for its loader.

    Allocates the caches (and fills them on a GPU), so call it before the micro-batch size is
    searched, which then sees the memory that is left.
    """
    decode = decode_path(splits[0], config, device)
    decisions = decide_caching(config.cache_images, splits, device, processes)
    sources = []
    for data, decision in zip(splits, decisions, strict=True):
        image_cache = DecodedImageCache(data, device) if decision.cached else None
        if image_cache is not None and device.type == "cuda":
            from pretrain.loading.dali_pipeline import fill_image_cache

            fill_image_cache(image_cache, data, device, threads, decode.name)
        summary = (
            f"{data.split} images: {decision.reason}; decoded by {decode.name}: {decode.reason}"
        )
        sources.append(Source(data, decode, image_cache, summary))
    return sources


def decode_path(data: ShardReader, config: TrainConfig, device: torch.device) -> DecodePath:
    """The decoder to use, by the settings or by the self-test of the GPU decoder."""
    if device.type != "cuda":
        return choose_decode_path(data, None)
    if config.gpu_decode == "always":
        return DecodePath("mixed", "the GPU decoder, untested (setting)")
    if config.gpu_decode == "never":
        return DecodePath("cpu", "not the GPU decoder (setting)")
    return choose_decode_path(data, device.index or 0)
