"""The models of paper A that NASA published, with their accuracies (micronet_accuracy.csv).

Imports no torch.
"""

import csv
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class MicroNetModel:
    """One published file. Version 1.0 is the paper's 76; 1.1 a ResNet-50 trained again later."""

    arch: str
    init: str  # random or imagenet
    version: str
    top1: float  # share in [0, 1] of MicroNet's 2,700 validation images
    top5: float
    source: str


def micronet_models() -> tuple[MicroNetModel, ...]:
    """All of them: paper A, figure 2(a), as numbers in the README of its repository."""
    text = (files("pretrain") / "registry" / "micronet_accuracy.csv").read_text(encoding="utf-8")
    return tuple(
        MicroNetModel(
            arch=row["arch"],
            init=row["init"],
            version=row["version"],
            top1=float(row["top1_percent"]) / 100,
            top5=float(row["top5_percent"]) / 100,
            source=row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    )
