"""Find specimens and overlapping images shared between splits. Imports no torch.

A network scores better on a specimen seen in training than on a new one; paper A's EBC-1 has one
specimen in all three splits.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from micrograph.cli import UserError
from shards.duplicates.candidates import find_duplicates
from shards.duplicates.fingerprint import compute_fingerprint
from shards.images.decode import Pixels

_COUNTER = re.compile(r"[ _.-]?\d{1,4}$")  # appended to file names by microscopes and users


def specimen_of(name: str, pattern: str | None = None) -> str | None:
    """The specimen in an image's name: group 1 of `pattern`, or the name without its counter.

    `050317#3_S0440016` gives `050317#3_S044`. None if the name contains none: by default the rest
    must contain a digit, so that `image_1` and `image_2` are not one specimen.
    """
    if pattern is not None:
        match = compile_pattern(pattern).search(name)
        return match[1] if match else None
    stem = _COUNTER.sub("", name)
    return stem if stem != name and any(character.isdigit() for character in stem) else None


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a specimen pattern. Raises `UserError` if it is invalid or has no group."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"specimen {pattern!r} is not a regular expression: {error}") from error
    if compiled.groups < 1:
        raise UserError(f"specimen {pattern!r} needs a group, such as '^(spot[0-9]+)_'")
    return compiled


def shared_specimens(
    names: Mapping[str, Sequence[str]], pattern: str | None = None
) -> dict[str, tuple[str, ...]]:
    """Specimens in several splits, with these splits. `names` are the image names per split."""
    splits: dict[str, set[str]] = {}
    for split, members in names.items():
        for name in members:
            if (specimen := specimen_of(name, pattern)) is not None:
                splits.setdefault(specimen, set()).add(split)
    order = list(names)
    return {
        specimen: tuple(sorted(found, key=order.index))
        for specimen, found in sorted(splits.items())
        if len(found) > 1
    }


def overlapping_images(images: Sequence[Pixels]) -> list[tuple[int, int]]:
    """Pairs of indices of images that overlap or are copies."""
    if len(images) < 2:
        return []
    prints = np.stack([compute_fingerprint(pixels) for pixels in images])
    pairs = find_duplicates(prints)
    return [(int(a), int(b)) for a, b in zip(pairs["first"], pairs["second"], strict=True)]
