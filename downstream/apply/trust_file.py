"""What downstream.trust leaves in a run's folder for predictions: temperature, and a reference.

trust.json             temperature, calibration errors, the novelty scores of the labelled images
novelty.safetensors    features of the labelled images: mean `(D,)` and precision `(D, D)`
reliability.png        how true the probabilities are, before and after
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from downstream.apply.novelty import Reference
from downstream.seg.run_folder import write_json
from pretrain.atomic import write_atomically
from pretrain.segmenter_card import REFERENCE_NAME, TRUST_NAME
from shards.cli import UserError
from shards.schema import read_versioned

SCHEMA_VERSION = 1
RELIABILITY_NAME = "reliability.png"


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Facts about the run with this `sha256` of best.safetensors."""

    schema_version: int
    sha256: str
    temperature: float
    calibration: dict[str, dict[str, float]]  # split -> ece and nll, before and after
    novelty_limit: float  # an image that scores higher is unlike the labelled ones
    novelty_scores: dict[str, float]  # of each labelled image, left out


def write_trust(run: Path, trust: Trust, reference: Reference) -> None:
    """Write both files; `trust.json` last, for it vouches for the other."""
    arrays = {"mean": reference.mean, "precision": reference.precision}
    write_atomically(run / REFERENCE_NAME, save(arrays))
    write_json(run / TRUST_NAME, asdict(trust))


def read_trust(run: Path, sha256: str) -> Trust | None:
    """The run's trust file, if any. Raises `UserError` for one of other weights."""
    path = run / TRUST_NAME
    if not path.is_file():
        return None
    content: dict[str, Any] = dict(read_versioned(path, SCHEMA_VERSION, absent=""))
    try:
        trust = Trust(**content)
    except TypeError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if trust.sha256 != sha256:
        raise UserError(
            f"{path} is of an earlier network; run python -m downstream.trust {run} again"
        )
    return trust


def read_reference(run: Path) -> Reference:
    """The features that new images are compared with. Raises `UserError` for a damaged file."""
    path = run / REFERENCE_NAME
    try:
        arrays = load_file(path)
        return Reference(
            np.asarray(arrays["mean"], np.float32), np.asarray(arrays["precision"], np.float32)
        )
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{path} is damaged or gone; run python -m downstream.trust {run} again"
        ) from error
