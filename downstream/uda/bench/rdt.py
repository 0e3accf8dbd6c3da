"""Relative domain transferability (RDT), and the reference runs that it is relative to.

RDT = (mIoU_target - mIoU_reference) / mIoU_reference (paper B, section 2.4.5, equation 2). The
reference is the mIoU on the source of a network trained with source labels alone. Paper B printed
two RDTs whose reference was another model than the one that it names; so a reference here has an id
made of its runs' ids, and every RDT carries it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Reference:
    """The runs whose mean source mIoU an RDT is relative to."""

    id: str  # changes with the set of runs
    run_ids: tuple[str, ...]
    miou: float  # mean over the runs, on the source's validation folds


def relative_transferability(target_miou: float, reference_miou: float) -> float:
    """RDT as a share: -0.232 for 61.0 % against 79.4 %. Raises `ValueError` for no reference."""
    if not reference_miou > 0:
        raise ValueError(f"an RDT needs a reference above 0, not {reference_miou}")
    return (target_miou - reference_miou) / reference_miou


def implied_reference(target_miou: float, rdt: float) -> float:
    """The reference that an RDT was made with."""
    return target_miou / (1 + rdt)


def make_reference(runs: Iterable[tuple[str, float]]) -> Reference:
    """Of (run id, source mIoU). Raises `ValueError` for none."""
    pairs = sorted(runs)
    if not pairs:
        raise ValueError("a reference needs at least one run")
    run_ids = tuple(run_id for run_id, _ in pairs)
    digest = hashlib.sha256("\n".join(run_ids).encode()).hexdigest()[:8]
    return Reference(digest, run_ids, float(np.mean([miou for _, miou in pairs])))
