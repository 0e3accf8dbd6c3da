"""Where the images of a split come from: who decodes them, and whether they are kept decoded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pretrain.config import TrainConfig
from pretrain.decoding import DecodePath, choose_decode_path
from pretrain.resident import Arena, decide_residence
from pretrain.store import ShardSplit


@dataclass(frozen=True, slots=True)
class Source:
    """What a loader reads from."""

    data: ShardSplit
    decode: DecodePath
    arena: Arena | None  # holds decoded images, if they are kept
    told: str  # both decisions and their reasons, in one line


def open_sources(
    splits: Sequence[ShardSplit],
    config: TrainConfig,
    device: torch.device,
    processes: int,
    threads: int,
) -> list[Source]:
    """Decide for each split; `processes` share this machine, each with `threads` for its loader.

    Takes the memory for decoded images, and fills it on a GPU: so to be called before the size of
    a micro-batch is tried, which then counts it.
    """
    decode = decode_path(splits[0], config, device)
    residences = decide_residence(config.cache_images, splits, device, processes)
    sources = []
    for data, residence in zip(splits, residences, strict=True):
        arena = Arena(data, device) if residence.kept else None
        if arena is not None and device.type == "cuda":
            from pretrain.dali_pixels import fill_arena

            fill_arena(arena, data, device, threads, decode.name)
        told = f"{data.split} images: {residence.reason}; decoded by {decode.name}: {decode.reason}"
        sources.append(Source(data, decode, arena, told))
    return sources


def decode_path(data: ShardSplit, config: TrainConfig, device: torch.device) -> DecodePath:
    """Who decodes, as the settings or the self-test of the GPU's decoder say."""
    if device.type != "cuda":
        return choose_decode_path(data, None)
    if config.gpu_decode == "always":
        return DecodePath("mixed", "the GPU decoder untested, as wanted")
    if config.gpu_decode == "never":
        return DecodePath("cpu", "the GPU decoder left alone, as wanted")
    return choose_decode_path(data, device.index or 0)
