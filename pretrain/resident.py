"""Decoded images kept in memory, so that from the second epoch on nothing is decoded.

All images of a split lie in one flat buffer of bytes, grey with one channel, whatever their sizes.
On the CPU they are put there as the first epoch decodes them; a GPU's buffer is filled before the
first epoch (dali_pixels.py). Every process holds all images that it meets, as its order reaches
all of them; the processes of one machine share its memory evenly. The pixels are those of
streaming, bit for bit, so whether a process holds its images changes nothing but its speed.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pretrain.config import Choice
from pretrain.order import Ids
from pretrain.store import ShardSplit
from shards.cli import UserError

BUDGET = 0.5  # of the free memory: the rest is for the model, other data and the page cache
GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class Residence:
    """Whether the decoded images are kept in memory, and why; a line for the log."""

    kept: bool
    reason: str


class Arena:
    """The decoded images of a split, `(H, W, C)` uint8 each, in one buffer on one device."""

    def __init__(self, data: ShardSplit, device: torch.device) -> None:
        self._heights = data.index["height"].astype(np.int64)
        self._widths = data.index["width"].astype(np.int64)
        self._channels = data.manifest.channels
        sizes = self._heights * self._widths * self._channels
        self._starts: Ids = np.concatenate([[0], np.cumsum(sizes)])
        # Pages of host memory are taken when they are first written to.
        self._bytes = torch.empty(int(self._starts[-1]), dtype=torch.uint8, device=device)
        self._held = np.zeros(len(data), bool)

    @property
    def complete(self) -> bool:
        """Whether every image is held."""
        return bool(self._held.all())

    def get(self, sample: int) -> torch.Tensor | None:
        """A view of an image `(H, W, C)`, or None where it is not yet held."""
        return self._view(sample) if self._held[sample] else None

    def put(self, sample: int, image: torch.Tensor) -> torch.Tensor:
        """Keep an image. Threads may put at once, even the same image. Returns its view."""
        view = self._view(sample)
        view.copy_(image)
        self._held[sample] = True
        return view

    def _view(self, sample: int) -> torch.Tensor:
        flat = self._bytes[self._starts[sample] : self._starts[sample + 1]]
        return flat.view(int(self._heights[sample]), int(self._widths[sample]), self._channels)


def decide_residence(
    choice: Choice, splits: Sequence[ShardSplit], device: torch.device, processes: int = 1
) -> list[Residence]:
    """Which splits are kept decoded, the first of them first: they share one budget.

    `processes` share this machine, each GPU has one. Raises `UserError` where they are wanted
    always and exceed what is free.
    """
    if choice == "never":
        return [Residence(False, "not kept in memory, as wanted") for _ in splits]
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else free_memory() // processes
    where = f"{free / GIB:.1f} GiB free on {'the GPU' if on_gpu else 'the host'}"
    where += f" for each of {processes} processes" if processes > 1 and not on_gpu else ""
    sizes = [image_bytes(data) for data in splits]
    if choice == "always" and sum(sizes) > free:
        names = " and ".join(data.split for data in splits)
        raise UserError(
            f"cache_images is 'always', but {names} need {sum(sizes) / GIB:.1f} GiB of {where}; "
            "use --cache-images auto, or smaller shards (shards.write --max-side)"
        )
    left = float(free) if choice == "always" else BUDGET * free
    decided = []
    for size in sizes:
        kept = size <= left
        left -= size if kept else 0
        verb = "kept in" if kept else "too large for"
        decided.append(Residence(kept, f"{size / GIB:.2f} GiB decoded, {verb} memory ({where})"))
    return decided


def image_bytes(data: ShardSplit) -> int:
    """Bytes of all images of a split, decoded."""
    pixels = data.index["height"].astype(np.int64) * data.index["width"].astype(np.int64)
    return int(pixels.sum()) * data.manifest.channels


def free_memory() -> int:
    """Bytes that this machine, or the memory limit of this job's control group, has left."""
    free = _fields(Path("/proc/meminfo"), 1024).get("MemAvailable:")
    if free is None:  # not Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return min([free, *_group_headrooms()])


def _group_headrooms(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """What each control group (version 2) around this process has left; clusters limit jobs so."""
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
    # Cached files count as used, but give way.
    cached = _fields(folder / "memory.stat", 1).get("inactive_file", 0)
    return max(0, int(limit) - used + cached)


def _fields(path: Path, unit: int) -> Mapping[str, int]:
    """The `name number` lines of one of the kernel's files, in bytes."""
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) * unit for line in lines if len(line) > 1 and line[1].isdigit()}
