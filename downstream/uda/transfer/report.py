"""Looks at target domains with several runs and sums up what they show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from downstream.seg.metrics import confusion, score
from downstream.uda.prepare import PreparedImage
from downstream.uda.transfer.forecast import Forecast
from downstream.uda.transfer.interval import (
    FractionInterval,
    domain_interval,
    image_interval,
    model_reach,
)
from downstream.uda.transfer.observers import Observer
from downstream.uda.transfer.signs import (
    Look,
    Signs,
    disagreement,
    look_at,
    mean_signs,
)
from downstream.uda.transfer.verdict import Expected, Verdict, judge

Indices = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ImageReport:
    """What the runs show of an image; several runs' signs are their means."""

    name: str
    signs: Signs
    far: bool  # beyond what is usual among source images, to most runs
    disagreement: float | None  # between runs; None for one
    run_fractions: npt.NDArray[np.float64]  # (runs, classes)
    fractions: tuple[FractionInterval, ...]  # per class, of the runs' mean prediction


@dataclass(frozen=True, slots=True)
class DomainReport:
    """What the runs show of a domain, and the verdict. `checked` used labels, the rest did not."""

    name: str
    images: tuple[ImageReport, ...]
    signs: Signs
    disagreement: float | None
    run_fractions: npt.NDArray[np.float64]  # (runs, classes)
    fractions: tuple[FractionInterval, ...]
    expected: Expected
    verdict: Verdict
    checked: "Checked | None"


@dataclass(frozen=True, slots=True)
class Checked:
    """The truth where test labels are there; it enters nothing else."""

    images: int
    miou: float  # mean over the runs
    adapted_miou: float
    bagged_miou: float  # of the runs' mean probability
    fractions: tuple[float, ...]  # true


@dataclass(frozen=True, slots=True)
class _Seen:
    """All runs' looks at an image, summed up."""

    looks: tuple[Signs, ...]
    disagreement: float | None
    run_fractions: npt.NDArray[np.float64]
    predicted: Indices  # (h, w), of the mean probability


def report_domain(
    name: str,
    observers: Sequence[Observer],
    images: Sequence[PreparedImage],
    tolerance: float,
    confidence: float,
) -> DomainReport:
    """Look at a domain's images and judge. Labels, where there are any, serve `checked` alone."""
    classes = len(observers[0].view.study.classes)
    check = _Check(len(observers), classes)
    seen = []
    # All runs side by side, so that one image's maps lie in memory at a time.
    lookers = [look_at(observer.view, images) for observer in observers]
    for image, looks in zip(images, zip(*lookers, strict=True), strict=True):
        seen.append(_sum_up(looks, classes))
        check.add(image, looks, seen[-1].predicted)
    of_runs = [mean_signs([own.looks[run] for own in seen]) for run in range(len(observers))]
    forecasts = [observer.forecast for observer in observers]
    expected = expect(forecasts, of_runs)
    mious = [forecast.miou(own) for forecast, own in zip(forecasts, of_runs, strict=True)]
    reaches = [model_reach(forecasts, mious, index, confidence) for index in range(classes)]
    reports = tuple(
        _image_report(image.name, own, observers, reaches, confidence)
        for image, own in zip(images, seen, strict=True)
    )
    areas = [own.predicted.size for own in seen]
    shares = np.average([own.run_fractions for own in seen], axis=0, weights=areas)
    fractions = tuple(
        domain_interval(
            [own.predicted == index for own in seen],
            reaches[index],
            _spread(shares[:, index]),
            confidence,
        )
        for index in range(classes)
    )
    signs = mean_signs(of_runs)
    apart = None
    if len(observers) > 1:
        apart = float(np.mean([own.disagreement for own in seen]))
    return DomainReport(
        name=name,
        images=reports,
        signs=signs,
        disagreement=apart,
        run_fractions=shares,
        fractions=fractions,
        expected=expected,
        verdict=judge(
            expected,
            tolerance,
            signs,
            mean_limits(observers),
            sum(own.far for own in reports),
            len(reports),
            apart,
        ),
        checked=check.result(),
    )


def expect(forecasts: Sequence[Forecast], signs: Sequence[Signs]) -> Expected:
    """The mean of the runs' forecasts, each from its own signs of a domain."""
    pairs = list(zip(forecasts, signs, strict=True))
    has_norms = all(np.isfinite(own.moved) for own in signs)
    return Expected(
        source_miou=float(np.mean([forecast.source_miou for forecast, _ in pairs])),
        miou=float(np.mean([forecast.miou(own) for forecast, own in pairs])),
        adapted_miou=(
            float(np.mean([forecast.adapted_miou(own) for forecast, own in pairs]))
            if has_norms
            else None
        ),
        error=float(np.sqrt(np.mean([forecast.error**2 for forecast, _ in pairs]))),
        reached=2 * sum(forecast.reaches(own) for forecast, own in pairs) >= len(pairs),
    )


def mean_limits(observers: Sequence[Observer]) -> tuple[float, float]:
    """Beyond which an image is far, in features and in statistics."""
    limits = np.mean([observer.view.limits for observer in observers], axis=0)
    return float(limits[0]), float(limits[1])


def _sum_up(looks: Sequence[Look], classes: int) -> _Seen:
    mean = np.mean([look.probabilities for look in looks], axis=0)
    shares = [
        np.bincount(look.probabilities.argmax(0).ravel(), minlength=classes) / mean[0].size
        for look in looks
    ]
    apart = disagreement([look.probabilities for look in looks]) if len(looks) > 1 else None
    predicted = mean.argmax(0).astype(np.uint8)
    return _Seen(tuple(look.signs for look in looks), apart, np.array(shares), predicted)


def _image_report(
    name: str,
    seen: _Seen,
    observers: Sequence[Observer],
    reaches: Sequence[float],
    confidence: float,
) -> ImageReport:
    far = [
        signs.features > o.view.limits[0] or signs.batchnorm > o.view.limits[1]
        for signs, o in zip(seen.looks, observers, strict=True)
    ]
    fractions = tuple(
        image_interval(
            seen.predicted == index, reach, _spread(seen.run_fractions[:, index]), confidence
        )
        for index, reach in enumerate(reaches)
    )
    return ImageReport(
        name=name,
        signs=mean_signs(seen.looks),
        far=bool(np.mean(far) >= 0.5),
        disagreement=seen.disagreement,
        run_fractions=seen.run_fractions,
        fractions=fractions,
    )


def _spread(values: npt.NDArray[np.float64]) -> float:
    """Standard deviation of the runs' fractions; 0 for one run, which cannot tell."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


class _Check:
    """Confusions of each run, of each adapted, and of all together, over the labelled images."""

    def __init__(self, runs: int, classes: int) -> None:
        self._matrices = torch.zeros(2 * runs + 1, classes, classes, dtype=torch.int64)
        self._runs, self._classes, self._images = runs, classes, 0

    def add(self, image: PreparedImage, looks: Sequence[Look], predicted: Indices) -> None:
        if image.mask is None:
            return
        truth = torch.from_numpy(image.mask.astype(np.int64))
        maps = [look.probabilities.argmax(0) for look in looks]
        maps += [look.adapted.argmax(0) for look in looks]
        for number, found in enumerate((*maps, predicted.astype(np.int64))):
            self._matrices[number] += confusion(torch.from_numpy(found), truth, self._classes)
        self._images += 1

    def result(self) -> Checked | None:
        if not self._images:
            return None
        mious = [score(matrix).miou for matrix in self._matrices]
        truth = self._matrices[0].sum(1) / self._matrices[0].sum()
        return Checked(
            images=self._images,
            miou=float(np.mean(mious[: self._runs])),
            adapted_miou=float(np.mean(mious[self._runs : -1])),
            bagged_miou=mious[-1],
            fractions=tuple(truth.tolist()),
        )
