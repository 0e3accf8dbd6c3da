"""Class balancing: small classes are sampled more often, or weigh more in the loss.

Both use the inverse class frequency to a power: 0 changes nothing, 1 makes all classes equal, 0.5
is in between (the square-root sampling of Mahajan et al. 2018).
"""

import numpy as np
import numpy.typing as npt

from pretrain.loading.philox import Stream, uniforms

Ints = npt.NDArray[np.int64]


def class_weights(labels: Ints, classes: int, power: float) -> npt.NDArray[np.float32]:
    """The weight of each class in the loss, `(classes,)`, of mean 1 over all `labels`."""
    counts = np.bincount(labels, minlength=classes)
    raw = np.zeros(classes)
    raw[counts > 0] = 1.0 / counts[counts > 0] ** power
    weights: npt.NDArray[np.float32] = raw * (len(labels) / (raw * counts).sum())
    return weights.astype(np.float32)


def class_quotas(labels: Ints, power: float) -> Ints:
    """Samples of each class per epoch, `(classes,)`; they sum to `len(labels)`."""
    counts = np.bincount(labels)
    weights = np.zeros(len(counts))
    weights[counts > 0] = counts[counts > 0] ** (1 - power)
    exact = weights / weights.sum() * len(labels)
    quotas: Ints = np.floor(exact).astype(np.int64)
    missing = len(labels) - quotas.sum()
    # Largest remainders first; ties by class, so that the result is unique.
    quotas[np.argsort(quotas - exact, kind="stable")[:missing]] += 1
    return quotas


def balanced_draws(labels: Ints, power: float, seed: int, epoch: int) -> Ints:
    """The ids of an epoch, `len(labels)` of them, class by class, not shuffled yet.

    The images of a class come in rounds, each a new permutation of all of them; an epoch continues
    where the one before ended. So after any epoch the images of a class have come equally often,
    to within one. An id is `image + len(labels) * repeat`; `repeat` counts the image's earlier
    appearances in the epoch, so that each appearance is augmented differently.
    """
    order = np.argsort(labels, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(labels))[:-1])
    draws = []
    for images, quota in zip(members, class_quotas(labels, power).tolist(), strict=True):
        if quota:
            drawn = _draw_rounds(images, epoch * quota, quota, seed)
            draws.append(drawn + len(labels) * _repeats(drawn))
    return np.concatenate(draws)


def _draw_rounds(images: Ints, start: int, count: int, seed: int) -> Ints:
    """Positions `start` to `start + count` in the endless sequence of a class's rounds."""
    first, last = start // len(images), (start + count - 1) // len(images)
    rounds = [_permute(images, seed, number) for number in range(first, last + 1)]
    return np.concatenate(rounds)[start - first * len(images) :][:count]


def _permute(images: Ints, seed: int, number: int) -> Ints:
    draws = uniforms(seed, Stream.BALANCE, number, images, 2)
    return images[np.lexsort((draws[:, 1], draws[:, 0]))]


def _repeats(drawn: Ints) -> Ints:
    """For each position, how often its image has come before."""
    order = np.argsort(drawn, kind="stable")
    ordered = drawn[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(drawn)])
    repeats = np.empty_like(drawn)
    repeats[order] = np.arange(len(drawn)) - np.repeat(starts, lengths)
    return repeats
