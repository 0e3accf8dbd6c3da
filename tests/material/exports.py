"""Folders as pretrain.export writes them, with a few bytes for weights."""

from pathlib import Path
from typing import Any

from pretrain.card import Card, write_card
from shards.schema import IMAGENET_MEAN, IMAGENET_STD, SourceInfo, file_sha256

OPEN = SourceInfo(name="steels", samples=48, licence="MIT", restriction=None, citation="A. B.")


def make_export(folder: Path, arch: str = "resnet18", **changes: Any) -> Path:
    """Write an export; `changes` are of its card, but for `weights`, its bytes."""
    (folder / "timm").mkdir(parents=True)
    weights = changes.pop("weights", b"weights")
    (folder / "encoder.safetensors").write_bytes(weights)
    (folder / "timm" / "config.json").write_text("{}")
    (folder / "timm" / "model.safetensors").write_bytes(weights)
    facts: dict[str, Any] = {
        "arch": arch,
        "timm_name": arch,
        "timm_features": "equal",
        "timm_difference": 0.0,
        "encoder_options": {},
        "init": "random",
        "init_tag": "",
        "classes": ("a<b|c", "martensite"),
        "channels": 1,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "image_size": 32,
        "converged": True,
        "metrics": {"top1": 0.75, "loss": 0.5, "epoch": 3},
        "class_accuracy": (0.5, 1.0),
        "corpus_hash": "c" * 64,
        "sources": (OPEN,),
        "config": {"lr": 0.01, "epochs": 3},
        "versions": {"torch": "2.15.0"},
        "sha256": file_sha256(folder / "encoder.safetensors"),
    }
    write_card(folder, Card(**(facts | changes)))
    return folder
