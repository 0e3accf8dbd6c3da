"""The contents of a shard set in numbers, from its index and manifest, without opening a tar.

python -m shards.stats DIR            tables
python -m shards.stats DIR --json     the same as one JSON object
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.shard_format.read_tables import read_samples
from shards.shard_format.schema import SPLITS, Manifest, SourceInfo, read_index


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassStats:
    """One class; medians are over both splits, 0 where it has no image."""

    name: str
    train: int
    val: int
    share: float  # of the corpus
    median_height: int  # pixels, as stored
    median_width: int
    median_bytes: int  # of the encoded image

    @property
    def images(self) -> int:
        return self.train + self.val


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Least, middle and greatest number of pixels; all 0 where there are no images."""

    min: int
    median: int
    max: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SetStats:
    """A shard set in numbers. `--json` prints this object."""

    name: str
    tool: str
    images: int
    splits: Mapping[str, int]
    bytes: Mapping[str, int]  # of the tars
    shards: Mapping[str, int]
    classes: tuple[ClassStats, ...]
    height: Range
    width: Range
    grey: int | None  # None: no table says which images are coloured
    coloured: int | None
    mean: tuple[float, ...]  # used for normalisation
    std: tuple[float, ...]
    pixel_mean: tuple[float, ...]  # measured
    pixel_std: tuple[float, ...]
    sources: tuple[SourceInfo, ...]
    decisions: Mapping[str, int]
    rejected: Mapping[str, int]
    split_rule: str
    training_only: tuple[str, ...]
    left_out: int
    corpus_hash: str


def set_stats(folder: Path, manifest: Manifest) -> SetStats:
    """Count what is in the set. Raises `UserError` for an index that is absent or damaged."""
    rows = np.concatenate([read_index(folder, split) for split in SPLITS])
    coloured = _coloured(folder, manifest)
    return SetStats(
        name=manifest.name,
        tool=manifest.tool,
        images=len(rows),
        splits={name: info.samples for name, info in manifest.splits.items()},
        bytes={n: sum(shard.bytes for shard in i.shards) for n, i in manifest.splits.items()},
        shards={name: len(info.shards) for name, info in manifest.splits.items()},
        classes=tuple(_class_stats(manifest, rows)),
        height=_range(rows["height"]),
        width=_range(rows["width"]),
        grey=None if coloured is None else len(rows) - coloured,
        coloured=coloured,
        mean=manifest.mean,
        std=manifest.std,
        pixel_mean=manifest.pixel_mean,
        pixel_std=manifest.pixel_std,
        sources=manifest.sources,
        decisions=manifest.decisions,
        rejected=manifest.rejected,
        split_rule=str(manifest.split_report.get("rule")),
        training_only=tuple(manifest.split_report.get("training_only", ())),
        left_out=int(manifest.split_report.get("left_out", 0)),
        corpus_hash=manifest.corpus_hash,
    )


def human_bytes(count: int) -> str:
    """`64.6 MB`: three digits or so, in powers of 1000."""
    number, units = float(count), ["kB", "MB", "GB", "TB"]
    if count < 1000:
        return f"{count} B"
    while (number := number / 1000) >= 999.5 and len(units) > 1:
        units.pop(0)
    return f"{number:.1f} {units[0]}" if number < 99.95 else f"{number:.0f} {units[0]}"


def numbers(values: Iterable[float]) -> str:
    """A value per channel, in [0, 1]."""
    return " ".join(f"{value:.3f}" for value in values)


def readable(name: str) -> str:
    """`data_bar_cropped` as words."""
    return name.replace("_", " ")


def _class_stats(manifest: Manifest, rows: npt.NDArray[np.void]) -> Iterator[ClassStats]:
    counts = {split: info.class_counts for split, info in manifest.splits.items()}
    order = np.argsort(rows["label"], kind="stable")
    ends = np.searchsorted(rows["label"][order], np.arange(len(manifest.classes) + 1))
    for label, name in enumerate(manifest.classes):
        own = rows[order[ends[label] : ends[label + 1]]]
        yield ClassStats(
            name=name,
            train=counts["train"][label],
            val=counts["val"][label],
            share=len(own) / max(len(rows), 1),
            median_height=_median(own["height"]),
            median_width=_median(own["width"]),
            median_bytes=_median(own["size"]),
        )


def _coloured(folder: Path, manifest: Manifest) -> int | None:
    if manifest.channels == 1:
        return 0
    channels = Counter(s.channels for s in read_samples(folder) if s.split in SPLITS)
    return channels[3] if channels else None


def _median(values: npt.NDArray[np.uint32]) -> int:
    return int(np.median(values)) if len(values) else 0


def _range(values: npt.NDArray[np.uint32]) -> Range:
    if not len(values):
        return Range(min=0, median=0, max=0)
    return Range(min=int(values.min()), median=_median(values), max=int(values.max()))
