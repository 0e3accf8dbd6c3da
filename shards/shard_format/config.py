"""The settings of `shards.write`, handed to every step that reads one of them.

They stand at the bottom, beside the manifest that records them, so that every room may name them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from micrograph.cli import cores
from micrograph.setting_marks import Mark, plain_without

Profile = Literal["fast", "exact"]
DataBarPolicy = Literal["crop", "keep"]
AnnotationPolicy = Literal["keep", "find", "discard"]
MaskPolicy = Literal["reject", "keep"]
SplitRule = Literal["per_class", "share", "folds", "source", "file"]

FAST_MAX_SIDE = 512  # pixels; 224-px crops of a micrograph lose little, decoding costs a quarter
JPEG_MAX_SIDE = 65_500  # libjpeg's


class DecidesSamples:
    """Marks a field that decides the stored images: what was encoded with another is not reused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteConfig:
    """Turn micrographs into WebDataset shards: cleaned, without duplicates, split without leaks."""

    source: Annotated[
        str | None,
        "folder or archive with one folder per class, table, or URL of one",
        Mark.LOCATION,
    ] = None
    corpus: Annotated[
        Path | None, "recipe of several sources, see configs/corpora/", Mark.LOCATION
    ] = None
    out: Annotated[str, "folder to create for the shards, or URL", Mark.LOCATION]
    work: Annotated[Path | None, "folder for work in progress [OUT.partial]", Mark.LOCATION] = None

    profile: Annotated[
        Profile, "fast: JPEG, longest side capped; exact: lossless PNG", DecidesSamples
    ] = "fast"
    max_side: Annotated[
        int | None,
        f"cap of the longest side in pixels [fast: {FAST_MAX_SIDE}, exact: none]",
        DecidesSamples,
    ] = None
    grey: Annotated[bool, "make every image grey, even a truly coloured one", DecidesSamples] = (
        False
    )

    data_bars: Annotated[DataBarPolicy, "data bars at the edge of an image", DecidesSamples] = (
        "crop"
    )
    annotations: Annotated[
        AnnotationPolicy,
        "burnt-in marks, keep: not searched for; find: counted; discard: images with many left out",
        DecidesSamples,
    ] = "keep"
    masks: Annotated[MaskPolicy, "images that look like label masks", DecidesSamples] = "reject"

    near_duplicates: Annotated[
        bool, "find overlapping images and keep them together", DecidesSamples
    ] = True
    specimen_pattern: Annotated[
        str | None, "regular expression; paths with equal captures show one specimen"
    ] = None
    licence: Annotated[str | None, "of the images of --source"] = None
    restriction: Annotated[str | None, "of the images of --source, such as an export control"] = (
        None
    )

    split: Annotated[
        SplitRule,
        "per_class: images of each; share: of each; folds: one of K; source: leave one out; "
        "file: as an earlier set",
    ] = "per_class"
    val_per_class: Annotated[int, "per_class: validation images of each class"] = 50
    max_val_share: Annotated[float, "per_class: largest share of a class that validates"] = 0.2
    val_share: Annotated[float, "share: of each class that validates"] = 0.2
    folds: Annotated[int, "folds: how many"] = 5
    fold: Annotated[int, "folds: the one that validates, from 0"] = 0
    val_source: Annotated[str | None, "source: the source that validates"] = None
    split_file: Annotated[
        Path | None, "file: samples.csv of an earlier set, or its folder", Mark.LOCATION
    ] = None
    split_overlaps: Annotated[
        bool, "cut a mosaic in space where its class could not validate otherwise"
    ] = False
    seed: Annotated[int, "decides the split and the order"] = 0

    shard_samples: Annotated[int, "samples per tar"] = 2048
    report: Annotated[bool, "write report.html as well", Mark.FREE_ON_RESUME] = True
    workers: Annotated[
        int | None, "processes; 1: this one alone [one per core]", Mark.FREE_ON_RESUME
    ] = None

    def __post_init__(self) -> None:
        if (self.source is None) == (self.corpus is None):
            raise ValueError("give either --source or --corpus (see --help)")
        if not self.out.strip("./"):
            raise ValueError(f"out must name a folder to create, not {self.out!r}")
        if self.max_side is not None and self.max_side < 32:
            raise ValueError(f"max_side must be at least 32 pixels, not {self.max_side}")
        if self.profile == "fast" and (self.max_side or 0) > JPEG_MAX_SIDE:
            raise ValueError(f"max_side must be at most {JPEG_MAX_SIDE} pixels in a JPEG")
        if self.val_per_class < 0:
            raise ValueError(f"val_per_class must not be negative, but is {self.val_per_class}")
        for name in ("max_val_share", "val_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        if self.split_overlaps and self.split not in ("per_class", "share"):
            raise ValueError(f"split_overlaps goes with per_class or share, not {self.split}")
        if self.folds < 2 or not 0 <= self.fold < self.folds:
            raise ValueError(f"fold must be in 0 to {self.folds - 1}, not {self.fold}")
        if self.shard_samples < 1 or (self.workers is not None and self.workers < 1):
            raise ValueError("shard_samples and workers must be at least 1")

    @property
    def side_cap(self) -> int | None:
        """Pixels of the longest side: `max_side`, or what the profile caps it at."""
        return FAST_MAX_SIDE if self.max_side is None and self.profile == "fast" else self.max_side

    @property
    def processes(self) -> int:
        return self.workers or cores()

    def sample_settings(self) -> dict[str, Any]:
        """The settings that decide the bytes of a stored image."""
        hints = get_type_hints(WriteConfig, include_extras=True)
        settings = self.content_settings()
        return {k: v for k, v in settings.items() if DecidesSamples in get_args(hints[k])}

    def content_settings(self) -> dict[str, Any]:
        """The settings that decide the bytes of the set, wherever and however it is made."""
        return plain_without(self, Mark.FREE_ON_RESUME) | {"max_side": self.side_cap}
