"""Micrographs become shards: list, clean and encode, group, split, shuffle, write, describe.

python -m shards.write --source DIR --out DIR
python -m shards.write --corpus configs/corpora/nanosem.yaml --out s3://bucket/nanosem
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from micrograph.field_marks import Mark, plain_without
from shards.assign import Assignment, SplitOptions, assign, check_options
from shards.catalog import Catalog
from shards.clean import CleanOptions, DataBars, Masks, Overlays
from shards.cli import UserError, console, cores, program
from shards.concerns import check_classes, warn_of_rejects, warn_of_split
from shards.corpus import Corpus, plain_source, read_corpus
from shards.grouping import group_images
from shards.images import JPEG_MAX_SIDE, SUFFIXES, Profile
from shards.intake import take_in
from shards.ledger import group_names, write_ledger
from shards.report import write_report
from shards.sample import SampleOptions
from shards.schema import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SCHEMA_VERSION,
    SPLITS,
    Manifest,
    SourceInfo,
    SplitInfo,
    corpus_hash,
    write_index,
    write_manifest,
)
from shards.settings import load_config
from shards.sources import Listing, list_sources
from shards.split import TRAIN, VAL, SplitRule, shuffled
from shards.tars import write_split
from shards.workplace import SPOOL, choose_work_folder, empty_but_spool, hold, publish

FAST_MAX_SIDE = 512  # pixels; 224-px crops of a micrograph lose little, decoding costs a quarter


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

    profile: Annotated[Profile, "fast: JPEG, longest side capped; exact: lossless PNG"] = "fast"
    max_side: Annotated[
        int | None, f"cap of the longest side in pixels [fast: {FAST_MAX_SIDE}, exact: none]"
    ] = None
    grey: Annotated[bool, "make every image grey, even a truly coloured one"] = False

    data_bars: Annotated[DataBars, "the bars that microscopes add at the edge"] = "crop"
    overlays: Annotated[Overlays, "images with many burnt-in measurement marks"] = "keep"
    masks: Annotated[Masks, "images that look like label masks"] = "reject"

    near_duplicates: Annotated[bool, "find overlapping images and keep them together"] = True
    group_pattern: Annotated[
        str | None, "regular expression; paths with equal captures are kept together"
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
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if self.split_overlaps and self.split not in ("per_class", "share"):
            raise ValueError(f"split_overlaps goes with per_class or share, not {self.split}")
        if self.folds < 2 or not 0 <= self.fold < self.folds:
            raise ValueError(f"fold must lie in 0 to {self.folds - 1}, not {self.fold}")
        if self.shard_samples < 1 or (self.workers is not None and self.workers < 1):
            raise ValueError("shard_samples and workers must be at least 1")


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(WriteConfig, argv)
    if config.corpus is not None:
        config = load_config(WriteConfig, argv, recipe=read_corpus(config.corpus).settings)
    manifest = write_shards(config)
    for split, info in manifest.splits.items():
        console.print(f"{split}: {info.samples} images in {len(info.shards)} shards")
    print(config.out)


def write_shards(config: WriteConfig) -> Manifest:
    """Write a complete shard set to `config.out`, or nothing that looks like one.

    Everything is made in `OUT.partial`, which takes its final name at the end (or is uploaded, the
    manifest last); a killed run goes on from there. Raises `UserError` for a bad source, an `out`
    that exists, or a failing disk.
    """
    corpus = _corpus(config)
    paths = [path for source in corpus.sources for path in source.path]
    partial = choose_work_folder(config.out, config.work, paths)
    check_options(_split_options(config), [source.name for source in corpus.sources])
    listing = list_sources(corpus.sources)
    try:
        with hold(partial):
            manifest = _write(config, corpus, listing, partial)
            publish(partial, config.out)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or partial}: {error.strerror or error}"
        ) from error
    return manifest


def _corpus(config: WriteConfig) -> Corpus:
    if config.corpus is not None:
        return read_corpus(config.corpus)
    assert config.source is not None  # as __post_init__ has checked
    source = plain_source(
        config.source,
        group=config.group_pattern,
        licence=config.licence,
        restriction=config.restriction,
    )
    return Corpus("", (source,), {})


def _write(config: WriteConfig, corpus: Corpus, listing: Listing, partial: Path) -> Manifest:
    empty_but_spool(partial)
    workers = config.workers or cores()
    catalog = take_in(listing, partial / SPOOL, _sample_options(config), workers)
    grouping = group_images(catalog, near=config.near_duplicates)
    rejected = (*catalog.rejected, *grouping.rejected)
    check_classes(listing, catalog.records["label"][grouping.kept], rejected)
    warn_of_rejects(rejected)

    names = [source.spec.name for source in listing.sources]
    options = _split_options(config)
    assignment = assign(catalog, grouping, names, len(listing.classes), options)
    can_cut = config.split in ("per_class", "share") and not config.split_overlaps
    warn_of_split(listing.classes, assignment, can_cut=can_cut)

    groups = group_names(catalog, grouping, assignment)
    splits = {}
    for split, side in zip(SPLITS, (TRAIN, VAL), strict=True):
        members = np.flatnonzero(assignment.sides == side)
        splits[split] = _write_one_split(
            config, listing, catalog, groups, partial, split, members, workers
        )
    files, decisions = write_ledger(partial, catalog, grouping, assignment, rejected, groups)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        tool=f"micrograph-pretrain {version('micrograph-pretrain')}",
        name=corpus.name,
        classes=listing.classes,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        **_channels_and_statistics(catalog, assignment),
        splits=splits,
        sources=_source_infos(listing, catalog, assignment),
        rejected=dict(sorted(Counter(file.reason for file in rejected).items())),
        decisions=decisions,
        split=assignment.report(options, listing.classes),
        options=_content_options(config),
        files=files,
        corpus_hash=corpus_hash(listing.classes, splits),
    )
    if config.report:
        write_report(partial, manifest, listing)
    write_manifest(partial, manifest)
    return manifest


def _sample_options(config: WriteConfig) -> SampleOptions:
    clean = CleanOptions(
        data_bars=config.data_bars,
        overlays=config.overlays,
        masks=config.masks,
        grey=config.grey,
    )
    return SampleOptions(
        profile=config.profile,
        max_side=_max_side(config),
        fingerprints=config.near_duplicates,
        clean=clean,
    )


def _max_side(config: WriteConfig) -> int | None:
    if config.max_side is None and config.profile == "fast":
        return FAST_MAX_SIDE
    return config.max_side


def _split_options(config: WriteConfig) -> SplitOptions:
    return SplitOptions(
        rule=config.split,
        per_class=config.val_per_class,
        max_share=config.max_val_share,
        share=config.val_share,
        folds=config.folds,
        fold=config.fold,
        val_source=config.val_source,
        file=config.split_file,
        cut_overlaps=config.split_overlaps,
        seed=config.seed,
    )


def _content_options(config: WriteConfig) -> dict[str, Any]:
    """The options that decide the bytes: the same shards from another folder or machine."""
    return plain_without(config, Mark.FREE_ON_RESUME) | {"max_side": _max_side(config)}


def _write_one_split(
    config: WriteConfig,
    listing: Listing,
    catalog: Catalog,
    groups: Mapping[int, str],
    folder: Path,
    split: str,
    members: npt.NDArray[np.int64],
    workers: int,
) -> SplitInfo:
    # Shuffled over the whole split: whoever reads the tars in order sees mixed classes.
    keys = [key.decode("ascii") for key in catalog.records["key"][members].tolist()]
    shards, index = write_split(
        folder,
        split,
        catalog,
        members[shuffled(keys, config.seed)],
        groups,
        suffix=SUFFIXES[config.profile],
        shard_samples=config.shard_samples,
        workers=workers,
    )
    counts = np.bincount(index["label"], minlength=len(listing.classes))
    return SplitInfo(
        samples=len(index),
        class_counts=tuple(counts.tolist()),
        shards=shards,
        index_sha256=write_index(folder, split, index),
    )


def _source_infos(
    listing: Listing, catalog: Catalog, assignment: Assignment
) -> tuple[SourceInfo, ...]:
    written = np.isin(assignment.sides, (TRAIN, VAL))
    counts = np.bincount(catalog.records["source"][written], minlength=len(listing.sources))
    return tuple(
        SourceInfo(
            name=source.spec.name,
            samples=count,
            licence=source.spec.licence,
            restriction=source.spec.restriction,
            citation=source.spec.citation,
        )
        for source, count in zip(listing.sources, counts.tolist(), strict=True)
    )


def _channels_and_statistics(catalog: Catalog, assignment: Assignment) -> dict[str, Any]:
    """Channels of all images written; mean and deviation of the training pixels, in [0, 1].

    A grey image counts in each channel.
    """
    written = np.isin(assignment.sides, (TRAIN, VAL))
    channels = int(catalog.records["channels"][written].max())
    training = catalog.records[assignment.sides == TRAIN]
    pixels = int((training["height"].astype(np.uint64) * training["width"]).sum())
    means, deviations = [], []
    for channel in range(channels):
        own = np.minimum(channel, training["channels"].astype(np.int64) - 1)[:, None]
        mean = _total(training["sums"], own) / max(pixels, 1)
        square = _total(training["squares"], own) / max(pixels, 1)
        means.append(round(mean / 255, 6))
        deviations.append(round((square - mean * mean) ** 0.5 / 255, 6))
    return {"channels": channels, "pixel_mean": tuple(means), "pixel_std": tuple(deviations)}


def _total(sums: npt.NDArray[np.uint64], channel: npt.NDArray[np.int64]) -> int:
    return sum(np.take_along_axis(sums, channel, 1)[:, 0].tolist())  # exact: Python's whole numbers


if __name__ == "__main__":
    main()
