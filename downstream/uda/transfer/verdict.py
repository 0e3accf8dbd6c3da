"""Trust, adapt or label: what the signs of a domain come to, and why, in plain words."""

from dataclasses import dataclass
from typing import Literal

from downstream.uda.transfer.signs import Signs

Advice = Literal["trust", "adapt", "label"]


@dataclass(frozen=True, slots=True)
class Expected:
    """What several runs are expected to reach on a domain; means over the runs."""

    source_miou: float
    miou: float
    adapted_miou: float | None  # with its own batch-norm statistics; None without batch norm
    error: float  # of a forecast, root mean square over the rehearsals
    reached: bool  # False: no rehearsal was as far from the source


@dataclass(frozen=True, slots=True)
class Verdict:
    """An advice and its reasons."""

    advice: Advice
    reasons: tuple[str, ...]


def decide(expected: Expected, tolerance: float) -> Advice:
    """What to do with a domain; `tolerance` is the loss of mIoU that one can live with.

    trust: the network is expected to lose no more than that, and the domain is no farther from the
    source than what was rehearsed. adapt: new batch-norm statistics, the cheapest adaptation of
    all, are expected to leave at most twice that loss, and training with the unlabelled images
    does better still. label: otherwise; and where there is no batch norm, twice that loss decides
    between the two.
    """
    if expected.reached and expected.miou >= expected.source_miou - tolerance:
        return "trust"
    mendable = expected.miou if expected.adapted_miou is None else expected.adapted_miou
    return "adapt" if mendable >= expected.source_miou - 2 * tolerance else "label"


def judge(
    expected: Expected,
    tolerance: float,
    signs: Signs,
    limits: tuple[float, float],
    far: int,
    images: int,
    disagreement: float | None,
) -> Verdict:
    """The advice and what speaks for it.

    `signs` are the domain's, `far` of its `images` lie beyond a limit, `limits` are those of
    features and statistics; `disagreement` is that of several runs.
    """
    advice = decide(expected, tolerance)
    return Verdict(
        advice,
        (
            _on_accuracy(expected, tolerance),
            _on_distance(expected, signs, limits, far, images),
            _on_steadiness(signs, disagreement),
            _ADVICE[advice],
        ),
    )


_ADVICE = {
    "trust": "Use the masks; look at a few overlays all the same.",
    "adapt": "Adapt with the unlabelled images (python -m downstream.adapt), then ask again.",
    "label": "Label some images of this domain, those farthest from the source first.",
}


def _on_accuracy(expected: Expected, tolerance: float) -> str:
    said = (
        f"mIoU of {expected.miou:.0%} expected (rehearsals were missed by {expected.error:.0%}), "
        f"{expected.source_miou:.0%} on the source; {tolerance:.0%} less is tolerated"
    )
    if expected.adapted_miou is None:
        return said + "."
    return said + f". With batch norm's statistics of these images {expected.adapted_miou:.0%}."


def _on_distance(
    expected: Expected, signs: Signs, limits: tuple[float, float], far: int, images: int
) -> str:
    said = f"Features lie {signs.features:.1f} times as far from the source as its own images do"
    if signs.batchnorm == signs.batchnorm:  # nan without batch norm
        said += f", batch norm's statistics {signs.batchnorm:.1f} times"
    said += f" (usual up to {limits[0]:.1f} and {limits[1]:.1f}); {far} of {images} images are far."
    if not expected.reached:
        said += " No rehearsal was as far: the forecast is a guess."
    return said


def _on_steadiness(signs: Signs, disagreement: float | None) -> str:
    said = f"Of an image's turns and flips the disagreement is {signs.turns:.3f}"
    if signs.moved == signs.moved:
        said += f"; {signs.moved:.0%} of the pixels change class with the new statistics"
    if disagreement is not None:
        said += f"; between the runs the disagreement is {disagreement:.3f}"
    return said + "."
