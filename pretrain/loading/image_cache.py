"""Decoded images cached in memory, so that nothing is decoded after the first epoch.

All images of a split share one flat byte buffer; grey images have one channel. On the CPU the first
epoch fills it; on a GPU it is filled before the first epoch (dali_pipeline.py). Each process caches
every image that it loads, so the processes of one machine share its memory evenly. Cached and
streamed pixels are equal bit for bit: the cache changes the speed only.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from micrograph.cli import UserError
from pretrain.config import Choice
from pretrain.loading.sample_order import Ids
from pretrain.loading.shard_reader import ShardReader

# Fraction of the free memory; the rest is for the model, other data and the page cache.
BUDGET = 0.5
GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class CachingDecision:
    """Whether the decoded images of a split are cached, and why (a line for the log)."""

    cached: bool
    reason: str


class DecodedImageCache:
    """The decoded images of a split, `(H, W, C)` uint8 each, in one buffer on one device."""

    def __init__(self, data: ShardReader, device: torch.device) -> None:
        self._heights = data.index["height"].astype(np.int64)
        self._widths = data.index["width"].astype(np.int64)
        self._channels = data.manifest.channels
        sizes = self._heights * self._widths * self._channels
        self._starts: Ids = np.concatenate([[0], np.cumsum(sizes)])
        # Host memory is allocated page by page, at the first write.
        self._bytes = torch.empty(int(self._starts[-1]), dtype=torch.uint8, device=device)
        self._filled = np.zeros(len(data), bool)

    @property
    def complete(self) -> bool:
        """Whether every image is cached."""
        return bool(self._filled.all())

    def get(self, sample: int) -> torch.Tensor | None:
        """A view of an image `(H, W, C)`, or None if it is not cached yet."""
        return self._view(sample) if self._filled[sample] else None

    def put(self, sample: int, image: torch.Tensor) -> torch.Tensor:
        """Cache an image and return its view. Thread-safe, even for the same image."""
        view = self._view(sample)
        view.copy_(image)
        self._filled[sample] = True
        return view

    def _view(self, sample: int) -> torch.Tensor:
        flat = self._bytes[self._starts[sample] : self._starts[sample + 1]]
        return flat.view(int(self._heights[sample]), int(self._widths[sample]), self._channels)


def decide_caching(
    choice: Choice, splits: Sequence[ShardReader], device: torch.device, processes: int = 1
) -> list[CachingDecision]:
    """Decide which splits to cache; they share one memory budget, in the given order.

    `processes` of this machine share its host memory; each GPU belongs to one. Raises `UserError`
    if the choice is "always" and the images do not fit.
    """
    if choice == "never":
        return [CachingDecision(False, "not cached (setting)") for _ in splits]
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else free_memory() // processes
    place = f"{free / GIB:.1f} GiB free on {'the GPU' if on_gpu else 'the host'}"
    place += f" for each of {processes} processes" if processes > 1 and not on_gpu else ""
    sizes = [image_bytes(data) for data in splits]
    if choice == "always" and sum(sizes) > free:
        names = " and ".join(data.split for data in splits)
        raise UserError(
            f"cache_images is 'always', but {names} need {sum(sizes) / GIB:.1f} GiB of {place}; "
            "use --cache-images auto, or smaller shards (shards.write --max-side)"
        )
    left = float(free) if choice == "always" else BUDGET * free
    decisions = []
    for size in sizes:
        fits = size <= left
        left -= size if fits else 0
        verb = "cached in" if fits else "too large for"
        decisions.append(
            CachingDecision(fits, f"{size / GIB:.2f} GiB decoded, {verb} memory ({place})")
        )
    return decisions


def image_bytes(data: ShardReader) -> int:
    """Size of all images of a split in bytes, decoded."""
    pixels = data.index["height"].astype(np.int64) * data.index["width"].astype(np.int64)
    return int(pixels.sum()) * data.manifest.channels


def free_memory() -> int:
    """Free memory in bytes: of this machine, or of this job's control group if that is less."""
    free = _fields(Path("/proc/meminfo"), 1024).get("MemAvailable:")
    if free is None:  # not Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return min([free, *_group_headrooms()])


def _group_headrooms(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Free memory of each control group (version 2) around this process; clusters limit jobs so."""
    try:
        entries = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    inside = next((e.removeprefix("0::/") for e in entries if e.startswith("0::/")), None)
    if inside is None:
        return []
    group = root / inside
    return [
        headroom
        for folder in (group, *group.parents)
        if folder.is_relative_to(root) and (headroom := _group_headroom(folder)) is not None
    ]


def _group_headroom(folder: Path) -> int | None:
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    # Cached files count as used, but the kernel can drop them.
    cached = _fields(folder / "memory.stat", 1).get("inactive_file", 0)
    return max(0, int(limit) - used + cached)


def _fields(path: Path, unit: int) -> Mapping[str, int]:
    """The `name number` lines of a file of the kernel, in bytes."""
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) * unit for line in lines if len(line) > 1 and line[1].isdigit()}
