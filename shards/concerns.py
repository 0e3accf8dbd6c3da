"""What is told of a corpus while it is written: classes that vanish, rejects, a lopsided split."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shards.assign import Assignment
from shards.catalog import Rejected
from shards.cli import UserError, warn
from shards.sources import Listing

_MOST_NAMED = 12  # classes in one warning


def check_classes(
    listing: Listing, labels: npt.NDArray[np.uint32], rejected: Sequence[Rejected]
) -> None:
    """Raise `UserError` for a class of which no image is left; `labels` are of those that are."""
    counts = np.bincount(labels, minlength=len(listing.classes))
    for label in np.flatnonzero(counts == 0):
        names = {
            (source.spec.name, file.name)
            for source in listing.sources
            for file in source.files
            if file.label == label
        }
        first = next(file for file in rejected if (file.origin, file.source) in names)
        raise UserError(
            f"class {listing.classes[label]}: all images were rejected, {first.source} as "
            f"{first.reason} ({first.detail}); mend the images or take the class away"
        )


def warn_of_rejects(rejected: Sequence[Rejected]) -> None:
    """Say how many files were rejected, and why."""
    if rejected:
        counts = Counter(file.reason for file in rejected)
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
        warn(f"{len(rejected)} files rejected ({reasons}); listed in rejects.jsonl")


def warn_of_split(classes: Sequence[str], assignment: Assignment, *, can_cut: bool) -> None:
    """Say where the two sides are not what was asked for; `can_cut`: --split-overlaps may help."""
    if assignment.validates_only:
        names = _some([classes[label] for label in assignment.validates_only])
        warn(
            f"{len(assignment.validates_only)} classes validate but have nothing to train: {names}"
        )
    if assignment.trains_only:
        names = _some([classes[label] for label in assignment.trains_only])
        hint = "; --split-overlaps cuts mosaics in space" if can_cut else ""
        warn(
            f"{len(assignment.trains_only)} classes train only, since the groups of their images "
            f"leave too few, or none, to validate: {names}{hint}"
        )
    short = [
        f"{classes[label]} {given} of {wanted}"
        for label, given, wanted in assignment.short
        if label not in assignment.trains_only
    ]
    if short:
        warn(f"{len(short)} classes give fewer validation images than asked for: {_some(short)}")
    if assignment.left_out:
        warn(f"{len(assignment.left_out)} images overlap both sides of the split and are left out")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
