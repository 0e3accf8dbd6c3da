"""The models of paper A that NASA published, with their accuracies. Imports no torch."""

from dataclasses import dataclass

from micrograph.literature_values import read_published


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
    """All of them, in print order."""
    rows = read_published("micronet").drop(columns="unit").to_dict("records")
    return tuple(MicroNetModel(**{str(key): value for key, value in row.items()}) for row in rows)
