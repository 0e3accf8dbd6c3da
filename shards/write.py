"""Micrographs become shards: scan, decode and encode, split, shuffle, write, describe.

python -m shards.write --source DIR --out DIR
"""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt

from shards.cli import UserError, console, program, warn
from shards.images import Profile
from shards.intake import Accepted, Intake, IntakeOptions, Rejected, take_in
from shards.schema import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SCHEMA_VERSION,
    SPLITS,
    Manifest,
    SplitInfo,
    corpus_hash,
    write_index,
    write_manifest,
)
from shards.settings import as_plain, load_config
from shards.sources import Source, scan_folder
from shards.split import draw_validation, shuffled, validation_count
from shards.tars import write_split

FAST_MAX_SIDE = 512  # pixels; 224-px crops of a micrograph lose little, decoding costs a quarter


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteConfig:
    """Turn a folder of class folders into WebDataset shards."""

    source: Annotated[Path, "folder with one folder of images per class"]
    out: Annotated[Path, "folder to create for the shards"]

    profile: Annotated[Profile, "fast: JPEG, longest side capped; exact: lossless PNG"] = "fast"
    max_side: Annotated[
        int | None, f"cap of the longest side in pixels [fast: {FAST_MAX_SIDE}, exact: none]"
    ] = None
    grey: Annotated[bool, "make every image grey, even a truly coloured one"] = False

    val_per_class: Annotated[int, "validation images per class"] = 50
    max_val_share: Annotated[float, "largest share of a class that validates"] = 0.2
    seed: Annotated[int, "decides the split and the order"] = 0

    shard_samples: Annotated[int, "samples per tar"] = 2048
    workers: Annotated[int, "processes"] = 2

    def __post_init__(self) -> None:
        if not self.out.name:
            raise ValueError(f"out must name a folder to create, not {str(self.out)!r}")
        if self.max_side is not None and self.max_side < 32:
            raise ValueError(f"max_side must be at least 32 pixels, not {self.max_side}")
        if self.val_per_class < 0:
            raise ValueError(f"val_per_class must not be negative, but is {self.val_per_class}")
        if not 0 < self.max_val_share < 1:
            raise ValueError(f"max_val_share must lie between 0 and 1, not {self.max_val_share}")
        if self.shard_samples < 1 or self.workers < 1:
            raise ValueError("shard_samples and workers must be at least 1")


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(WriteConfig, argv)
    manifest = write_shards(config)
    for split, info in manifest.splits.items():
        console.print(f"{split}: {info.samples} images in {len(info.shards)} shards")
    print(config.out)


def write_shards(config: WriteConfig) -> Manifest:
    """Write a complete shard set to `config.out`, or nothing that looks like one.

    Everything is made in `OUT.partial`, which takes its final name at the end; a killed run goes on
    from there. Raises `UserError` for a bad source, an `out` that exists, or a failing disk.
    """
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise UserError(f"{config.out} exists and is not empty; choose another --out or delete it")
    if config.out.resolve().is_relative_to(config.source.resolve()):
        raise UserError(f"{config.out} lies in the source folder; choose an --out outside it")
    source = scan_folder(config.source)
    partial = config.out.with_name(config.out.name + ".partial")
    try:
        return _write(config, source, partial)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or partial}: {error.strerror or error}"
        ) from error


def _write(config: WriteConfig, source: Source, partial: Path) -> Manifest:
    spool = partial / "spool"
    for leftover in partial.glob("*"):  # tars of a killed run, perhaps of other options
        if leftover != spool:
            leftover.unlink()
    options = IntakeOptions(profile=config.profile, max_side=_max_side(config), grey=config.grey)
    intake = take_in(source, spool, options, config.workers)
    _check_classes(source, intake)
    _report_rejects(intake.rejected)

    validates = draw_validation(
        [sample.key for sample in intake.accepted],
        [sample.label for sample in intake.accepted],
        len(source.classes),
        per_class=config.val_per_class,
        max_share=config.max_val_share,
        seed=config.seed,
    )
    _warn_of_small_classes(config, source.classes, intake.accepted)

    splits = {}
    for split in SPLITS:
        members = [
            sample
            for sample, val in zip(intake.accepted, validates, strict=True)
            if val == (split == "val")
        ]
        splits[split] = _write_one_split(config, source, spool, partial, split, members)
    manifest = _describe(config, source, intake, validates, splits)
    rejects = "".join(json.dumps(asdict(file), sort_keys=True) + "\n" for file in intake.rejected)
    (partial / "rejects.jsonl").write_text(rejects, encoding="utf-8")
    write_manifest(partial, manifest)
    shutil.rmtree(spool)
    if config.out.exists():
        config.out.rmdir()  # empty, as was checked: renaming needs the name free
    partial.rename(config.out)
    return manifest


def _write_one_split(
    config: WriteConfig,
    source: Source,
    spool: Path,
    folder: Path,
    split: str,
    members: Sequence[Accepted],
) -> SplitInfo:
    # Shuffled over the whole split: whoever reads the tars in order sees mixed classes.
    order = shuffled([sample.key for sample in members], config.seed)
    shards, index = write_split(
        folder,
        split,
        [members[i] for i in order],
        spool,
        source.classes,
        shard_samples=config.shard_samples,
        workers=config.workers,
    )
    counts = np.bincount(index["label"], minlength=len(source.classes))
    return SplitInfo(
        samples=len(index),
        class_counts=tuple(counts.tolist()),
        shards=shards,
        index_sha256=write_index(folder, split, index),
    )


def _describe(
    config: WriteConfig,
    source: Source,
    intake: Intake,
    validates: npt.NDArray[np.bool_],
    splits: dict[str, SplitInfo],
) -> Manifest:
    channels = max(sample.channels for sample in intake.accepted)
    training = [s for s, val in zip(intake.accepted, validates, strict=True) if not val]
    pixel_mean, pixel_std = _pixel_statistics(training, channels)
    not_content = ("source", "out", "workers")  # the same shards from another folder or machine
    return Manifest(
        schema_version=SCHEMA_VERSION,
        tool=f"micrograph-pretrain {version('micrograph-pretrain')}",
        classes=source.classes,
        channels=channels,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        splits=splits,
        rejected=dict(sorted(Counter(file.reason for file in intake.rejected).items())),
        options={key: value for key, value in as_plain(config).items() if key not in not_content}
        | {"max_side": _max_side(config)},
        corpus_hash=corpus_hash(source.classes, splits),
    )


def _pixel_statistics(
    samples: Sequence[Accepted], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of all pixels, per channel, in [0, 1]; a grey image counts in each."""
    pixels = sum(sample.height * sample.width for sample in samples)
    means, deviations = [], []
    for channel in range(channels):
        mean = sum(s.pixel_sums[min(channel, s.channels - 1)] for s in samples) / pixels
        square = sum(s.square_sums[min(channel, s.channels - 1)] for s in samples) / pixels
        means.append(round(mean / 255, 6))
        deviations.append(round((square - mean * mean) ** 0.5 / 255, 6))
    return tuple(means), tuple(deviations)


def _max_side(config: WriteConfig) -> int | None:
    if config.max_side is None and config.profile == "fast":
        return FAST_MAX_SIDE
    return config.max_side


def _check_classes(source: Source, intake: Intake) -> None:
    counts = Counter(sample.label for sample in intake.accepted)
    for label, name in enumerate(source.classes):
        if not counts[label]:
            first = next(f for f in intake.rejected if f.source.startswith(f"{name}/"))
            raise UserError(
                f"class {name}: all images were rejected, {first.source} as {first.reason} "
                f"({first.detail}); mend or take away the folder"
            )


def _report_rejects(rejected: Sequence[Rejected]) -> None:
    if rejected:
        counts = Counter(file.reason for file in rejected)
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
        warn(f"{len(rejected)} files rejected ({reasons}); listed in rejects.jsonl")


def _warn_of_small_classes(
    config: WriteConfig, classes: Sequence[str], accepted: Sequence[Accepted]
) -> None:
    sizes = Counter(sample.label for sample in accepted)
    small = []
    for label, name in enumerate(classes):
        given = validation_count(sizes[label], config.val_per_class, config.max_val_share)
        if given < config.val_per_class:
            small.append(f"{name} {given} of {sizes[label]}")
    if small:
        warn(
            f"{len(small)} classes are too small for {config.val_per_class} validation images; "
            f"they give at most {config.max_val_share:.0%}: {', '.join(small)}"
        )


if __name__ == "__main__":
    main()
