"""Write micrographs as shards: list, clean and encode, group, split, shuffle, write, report.

python -m shards.write --source DIR --out DIR
python -m shards.write --corpus configs/corpora/nanosem.yaml --out s3://bucket/nanosem
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from micrograph.cli import UserError, console, program
from micrograph.settings import build_config, given_settings
from shards.encoding.encode import encode_sources
from shards.encoding.spool import Catalog
from shards.report.build import write_report
from shards.shard_format.config import WriteConfig
from shards.shard_format.schema import (
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
from shards.sources.listing import Listing, list_sources
from shards.sources.recipe import Corpus, plain_source, read_corpus
from shards.splitting.assign import Split, check_split, split_images
from shards.splitting.groups import group_images
from shards.splitting.rules import TRAIN, shuffled
from shards.writing.corpus_warnings import check_classes, warn_of_rejects, warn_of_split
from shards.writing.sample_tables import count_decisions, group_names, write_tables
from shards.writing.tar_files import write_split
from shards.writing.work_folder import (
    SPOOL,
    choose_work_folder,
    empty_but_spool,
    lock_work_folder,
    publish,
)


@program
def main(argv: Sequence[str] | None = None) -> None:
    given = given_settings(WriteConfig, argv)
    corpus = read_corpus(Path(given["corpus"])) if "corpus" in given else None
    settings = {} if corpus is None else corpus.settings
    config = build_config(WriteConfig, {**settings, **given})
    manifest = write_shards(config, corpus)
    for split, info in manifest.splits.items():
        console.print(f"{split}: {info.samples} images in {len(info.shards)} shards")
    print(config.out)


def write_shards(config: WriteConfig, corpus: Corpus | None = None) -> Manifest:
    """Write a complete shard set to `config.out`, or nothing that looks like one.

    Everything is made in `OUT.partial`, which is renamed at the end (or uploaded, the manifest
    last); a killed run continues from there. `corpus`: the recipe `config.corpus`, where it was
    read before. Raises `UserError` for a bad source, an `out` that exists, or a failing disk.
    """
    corpus = corpus or _read_corpus(config)
    paths = [path for source in corpus.sources for path in source.path]
    partial = choose_work_folder(config.out, config.work, paths)
    check_split(config, [source.name for source in corpus.sources])
    listing = list_sources(corpus.sources)
    try:
        with lock_work_folder(partial):
            manifest = _write(config, corpus, listing, partial)
            publish(partial, config.out)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or partial}: {error.strerror or error}"
        ) from error
    return manifest


def _read_corpus(config: WriteConfig) -> Corpus:
    if config.corpus is not None:
        return read_corpus(config.corpus)
    assert config.source is not None  # as __post_init__ has checked
    source = plain_source(
        config.source,
        specimen=config.specimen_pattern,
        licence=config.licence,
        restriction=config.restriction,
    )
    return Corpus("", (source,), {})


def _write(config: WriteConfig, corpus: Corpus, listing: Listing, partial: Path) -> Manifest:
    empty_but_spool(partial)
    catalog = encode_sources(listing, partial / SPOOL, config)
    grouping = group_images(catalog, near=config.near_duplicates)
    rejected = (*catalog.rejected, *grouping.rejected)
    check_classes(listing, catalog.records["label"][grouping.kept], rejected)
    warn_of_rejects(rejected)

    names = [source.spec.name for source in listing.sources]
    split = split_images(catalog, grouping, names, len(listing.classes), config)
    can_cut = config.split in ("per_class", "share") and not config.split_overlaps
    warn_of_split(listing.classes, split, can_cut=can_cut)

    groups = group_names(catalog, grouping, split)
    splits = {
        name: _write_one_split(
            config, listing, catalog, groups, partial, name, np.flatnonzero(split.assignment == n)
        )
        for n, name in enumerate(SPLITS)
    }
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        tool=f"micrograph-pretrain {version('micrograph-pretrain')}",
        name=corpus.name,
        classes=listing.classes,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        **_channels_and_statistics(catalog, split),
        splits=splits,
        sources=_source_infos(listing, catalog, split),
        rejected=dict(sorted(Counter(file.reason for file in rejected).items())),
        decisions=count_decisions(catalog, grouping, split, groups),
        split_report=split.report(config.split, listing.classes),
        options=config.content_settings(),
        files=write_tables(partial, catalog, grouping, split, rejected, groups),
        corpus_hash=corpus_hash(listing.classes, splits),
    )
    if config.report:
        write_report(partial, manifest, listing)
    write_manifest(partial, manifest)
    return manifest


def _write_one_split(
    config: WriteConfig,
    listing: Listing,
    catalog: Catalog,
    groups: Mapping[int, str],
    folder: Path,
    split: str,
    members: npt.NDArray[np.int64],
) -> SplitInfo:
    # Shuffled over the whole split: reading the tars in order gives mixed classes.
    keys = [key.decode("ascii") for key in catalog.records["key"][members].tolist()]
    order = members[shuffled(keys, config.seed)]
    shards, index = write_split(folder, split, catalog, order, groups, config)
    counts = np.bincount(index["label"], minlength=len(listing.classes))
    return SplitInfo(
        samples=len(index),
        class_counts=tuple(counts.tolist()),
        shards=shards,
        index_sha256=write_index(folder, split, index),
    )


def _source_infos(listing: Listing, catalog: Catalog, split: Split) -> tuple[SourceInfo, ...]:
    sources = catalog.records["source"][split.written()]
    counts = np.bincount(sources, minlength=len(listing.sources))
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


def _channels_and_statistics(catalog: Catalog, split: Split) -> dict[str, Any]:
    """Channels of all images written; mean and deviation of the training pixels, in [0, 1].

    A grey image counts in each channel.
    """
    channels = int(catalog.records["channels"][split.written()].max())
    training = catalog.records[split.assignment == TRAIN]
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
