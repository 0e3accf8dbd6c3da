"""Warnings about a corpus while it is written: classes lost, files rejected, an uneven split."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from micrograph.cli import UserError, warn
from shards.shard_format.schema import Rejected
from shards.sources.listing import Listing
from shards.splitting.assign import Split

_MOST_NAMED = 12  # classes in one warning


def check_classes(
    listing: Listing, labels: npt.NDArray[np.uint32], rejected: Sequence[Rejected]
) -> None:
    """Raise `UserError` for a class without a kept image; `labels` are those of the kept images."""
    counts = np.bincount(labels, minlength=len(listing.classes))
    for label in np.flatnonzero(counts == 0):
        names = {
            (source.spec.name, file.name)
            for source in listing.sources
            for file in source.files
            if file.label == label
        }
        first = next(file for file in rejected if (file.source, file.path) in names)
        raise UserError(
            f"class {listing.classes[label]}: all images were rejected, {first.path} as "
            f"{first.reason} ({first.detail}); repair the images or remove the class"
        )


def warn_of_rejects(rejected: Sequence[Rejected]) -> None:
    """Warn how many files were rejected, and why."""
    if rejected:
        counts = Counter(file.reason for file in rejected)
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
        warn(f"{len(rejected)} files rejected ({reasons}); listed in rejects.jsonl")


def warn_of_split(classes: Sequence[str], split: Split, *, can_cut: bool) -> None:
    """Warn where the split is not what was asked for; `can_cut`: --split-overlaps may help."""
    if split.validates_only:
        names = _some([classes[label] for label in split.validates_only])
        warn(f"{len(split.validates_only)} classes have validation but no training images: {names}")
    if split.trains_only:
        names = _some([classes[label] for label in split.trains_only])
        hint = "; --split-overlaps cuts mosaics in space" if can_cut else ""
        warn(
            f"{len(split.trains_only)} classes train only, since the groups of their images "
            f"leave too few, or none, to validate: {names}{hint}"
        )
    short = [
        f"{classes[label]} {given} of {wanted}"
        for label, given, wanted in split.short
        if label not in split.trains_only
    ]
    if short:
        warn(f"{len(short)} classes give fewer validation images than asked for: {_some(short)}")
    if split.left_out:
        count = len(split.left_out)
        warn(f"{count} images overlap both training and validation images and are left out")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
