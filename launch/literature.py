"""Accuracies that others published, with the source of each: in CSVs, read here."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

from pretrain.micronet import micronet_models


@dataclass(frozen=True, slots=True)
class Published:
    """One published accuracy."""

    top1: float  # share in [0, 1]
    source: str


def micronet_accuracy(version: str = "1.0") -> dict[tuple[str, str], Published]:
    """(arch, init) -> top-1 on MicroNet's 2,700 validation images: paper A, figure 2(a).

    Version 1.0 holds the paper's 76 models; 1.1 is a ResNet-50 that was trained again later.
    """
    return {
        (model.arch, model.init): Published(model.top1, model.source)
        for model in micronet_models()
        if model.version == version
    }


def in_order(inits: Iterable[str]) -> list[str]:
    """Initialisations, the paper's two first and in its order."""
    return sorted(inits, key=lambda init: (init != "random", init != "imagenet", init))


def imagenet_accuracy() -> dict[str, Published]:
    """arch -> top-1 on ImageNet of the weights that `--init imagenet` takes, where one is known."""
    return {
        row["arch"]: _published(row)
        for row in _rows("imagenet_accuracy.csv")
        if row["top1_percent"]
    }


def _published(row: dict[str, str]) -> Published:
    return Published(float(row["top1_percent"]) / 100, row["source"])


def _rows(name: str) -> list[dict[str, str]]:
    text = (files("launch") / "published" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
