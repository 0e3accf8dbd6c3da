"""Which sample validates, and in which order all lie: pure functions of keys and a seed."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def draw_validation(
    keys: Sequence[str],
    labels: Sequence[int],
    classes: int,
    *,
    per_class: int,
    max_share: float,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Mark the validation samples: `per_class` of each class (paper A: 50), drawn by seed.

    A class gives at most `max_share` of its samples, but one at least if it has two.
    """
    order = shuffled(keys, seed)
    labels_in_order = np.asarray(labels)[order]
    validates = np.zeros(len(keys), dtype=bool)
    for label in range(classes):
        members = order[labels_in_order == label]
        validates[members[: validation_count(len(members), per_class, max_share)]] = True
    return validates


def validation_count(samples: int, per_class: int, max_share: float) -> int:
    """How many of a class's samples validate."""
    if samples < 2 or per_class == 0:
        return 0
    return max(1, min(per_class, int(samples * max_share)))


def shuffled(keys: Sequence[str], seed: int) -> npt.NDArray[np.int64]:
    """Positions of `keys` in an order that depends on the keys and the seed alone.

    Not on their number or order: a corpus that grows keeps the order of what it had.
    """
    ranks = [hashlib.sha256(f"{seed}:{key}".encode()).digest() for key in keys]
    return np.array(sorted(range(len(keys)), key=ranks.__getitem__), dtype=np.int64)
