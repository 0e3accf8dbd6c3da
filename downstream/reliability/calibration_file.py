"""The files that downstream.calibrate writes in a run's folder.

calibration.json             temperature, calibration errors, out-of-distribution scores and limit
ood_reference.safetensors    features of the labelled images: mean `(D,)` and precision `(D, D)`
reliability.png              reliability diagram, before and after
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from downstream.reliability.out_of_distribution import Reference
from micrograph.atomic import write_atomically, write_json
from micrograph.cli import UserError
from pretrain.cards.segmenter_card import CALIBRATION_NAME, REFERENCE_NAME
from shards.shard_format.schema import read_versioned

SCHEMA_VERSION = 1
RELIABILITY_NAME = "reliability.png"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Facts about the run with this `sha256` of best.safetensors."""

    schema_version: int = SCHEMA_VERSION
    sha256: str
    temperature: float
    errors: dict[str, dict[str, float]]  # split -> ECE and NLL, before and after
    ood_limit: float  # an image that scores higher is unlike the labelled ones
    ood_scores: dict[str, float]  # of each labelled image, left out of the reference


def write_calibration(run: Path, calibration: Calibration, reference: Reference) -> None:
    """Write both files; `calibration.json` last, as it marks the other as complete."""
    arrays = {"mean": reference.mean, "precision": reference.precision}
    write_atomically(run / REFERENCE_NAME, save(arrays))
    write_json(run / CALIBRATION_NAME, asdict(calibration))


def read_calibration(run: Path, sha256: str) -> Calibration | None:
    """The run's calibration, if any. Raises `UserError` for that of other weights."""
    path = run / CALIBRATION_NAME
    if not path.is_file():
        return None
    content: Any = read_versioned(path, SCHEMA_VERSION, absent="")
    try:
        calibration = Calibration(**content)
    except TypeError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if calibration.sha256 != sha256:
        raise UserError(
            f"{path} is of an earlier network; run python -m downstream.calibrate {run} again"
        )
    return calibration


def read_reference(run: Path) -> Reference:
    """The features that new images are compared with. Raises `UserError` for a damaged file."""
    path = run / REFERENCE_NAME
    try:
        arrays = load_file(path)
        return Reference(arrays["mean"], arrays["precision"])
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{path} is damaged or missing; run python -m downstream.calibrate {run} again"
        ) from error
