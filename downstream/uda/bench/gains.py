"""What a method gains over source-only training, in pairs; and what part batch norm explains.

A pair is two runs of one fold and seed, on the same target images. Folds, seeds and images are all
clusters, so each is resampled by itself (as `downstream.bench.paired` does with runs and images).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from downstream.bench.paired import percentile_interval, resampled_means, t_interval
from downstream.uda.bench.runs import (
    BASELINE,
    BN_ADAPT,
    AdaptRun,
    DomainScore,
    Variant,
    scores_on,
    targets_of,
    twin,
    variants,
)

Array = npt.NDArray[np.float64]
Place = tuple[int, int]  # fold, seed

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Paired:
    """A difference of mIoU over pairs of runs; nan where there is one pair alone."""

    pairs: int
    folds: int
    seeds: int
    images: int  # that all of them were scored on
    wins: int
    mean: float
    low: float  # bootstrap over folds and seeds
    high: float
    t_low: float  # Student's t over fold means; of one fold, over seeds
    t_high: float
    image_mean: float  # over the images, each by itself
    image_low: float  # bootstrap over folds, seeds and images
    image_high: float
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a gain that re-estimated batch norm statistics give alone; 1: all of it."""

    mean: float
    low: float  # bootstrap over folds and seeds; nan with the others where the gain is not sure
    high: float


@dataclass(frozen=True, slots=True)
class Gain:
    """A variant less its baseline, on one target."""

    target: str
    variant: Variant
    baseline: Variant
    paired: Paired
    bn_share: Share | None  # None: no such runs, or this is bn_adapt itself


def gains(runs: Sequence[AdaptRun]) -> list[Gain]:
    """Of every variant that has runs of the same fold and seed as its baseline, by target."""
    found = []
    for target in targets_of(runs):
        for variant in variants(runs):
            baseline = twin(runs, variant, BASELINE)
            if baseline is None or variant.method == BASELINE:
                continue
            ours, base = (scores_on(runs, v, target) for v in (variant, baseline))
            if not ours.keys() & base.keys():
                continue
            paired = compare(base, ours)
            share = None
            if (adapted := twin(runs, variant, BN_ADAPT)) and variant.method != BN_ADAPT:
                share = bn_share(base, scores_on(runs, adapted, target), ours)
            found.append(Gain(target, variant, baseline, paired, share))
    return found


def compare(base: Mapping[Place, DomainScore], ours: Mapping[Place, DomainScore]) -> Paired:
    """`ours` less `base`, where both have a run of the same fold and seed."""
    places = sorted(base.keys() & ours.keys())
    values = _grid(places, {p: ours[p].miou - base[p].miou for p in places})
    names = [
        name
        for name in base[places[0]].image_miou
        if all(name in scores[p].image_miou for scores in (base, ours) for p in places)
    ]
    by_image = np.stack(
        [
            _grid(places, {p: ours[p].image_miou[n] - base[p].image_miou[n] for p in places})
            for n in names
        ]
        or [np.zeros((0, 0))],
        axis=-1,
    )
    several = len(places) > 1
    low, high = percentile_interval(resampled_means([values])) if several else (NAN, NAN)
    imaged = several and len(names) > 0
    image_low, image_high = (
        percentile_interval(resampled_means([by_image])) if imaged else (NAN, NAN)
    )
    t_low, t_high = t_interval(values.mean(1) if len(values) > 1 else values[0])
    return Paired(
        pairs=len(places),
        folds=len({fold for fold, _ in places}),
        seeds=len({seed for _, seed in places}),
        images=len(names),
        wins=int((values > 0).sum()),
        mean=float(values.mean()),
        low=low,
        high=high,
        t_low=t_low,
        t_high=t_high,
        image_mean=float(by_image.mean()) if names else NAN,
        image_low=image_low,
        image_high=image_high,
        values=tuple(values.ravel().tolist()),
    )


def bn_share(
    base: Mapping[Place, DomainScore],
    adapted: Mapping[Place, DomainScore],
    ours: Mapping[Place, DomainScore],
) -> Share | None:
    """(bn_adapt - base) / (ours - base), over folds and seeds that all three have.

    A ratio means little where the gain itself may be zero, so it is nan there.
    """
    places = sorted(base.keys() & adapted.keys() & ours.keys())
    if not places:
        return None
    part = _grid(places, {p: adapted[p].miou - base[p].miou for p in places})
    whole = _grid(places, {p: ours[p].miou - base[p].miou for p in places})
    if len(places) == 1:
        return Share(float(part[0, 0] / whole[0, 0]) if whole[0, 0] > 0 else NAN, NAN, NAN)
    wholes = resampled_means([whole])
    if percentile_interval(wholes)[0] <= 0:
        return Share(NAN, NAN, NAN)
    low, high = percentile_interval(resampled_means([part]) / wholes)
    return Share(float(part.mean() / whole.mean()), low, high)


def _grid(places: Sequence[Place], values: Mapping[Place, float]) -> Array:
    """As (folds, seeds); where combinations are missing, (runs, 1)."""
    folds = sorted({fold for fold, _ in places})
    seeds = sorted({seed for _, seed in places})
    if len(places) < len(folds) * len(seeds):
        return np.array([[values[place]] for place in places])
    return np.array([[values[fold, seed] for seed in seeds] for fold in folds])
