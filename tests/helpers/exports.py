"""Exports and segmenters as programs leave them, with a few bytes for weights."""

import json
from pathlib import Path
from typing import Any

from pretrain.cards.encoder_card import Card, write_card
from pretrain.cards.segmenter_card import SegmenterCard, write_segmenter_card
from shards.shard_format.schema import IMAGENET_MEAN, IMAGENET_STD, SourceInfo, file_sha256

OPEN = SourceInfo(name="steels", samples=48, licence="MIT", restriction=None, citation="A. B.")
SECRET = SourceInfo(name="lab", samples=4, licence="own", restriction="export", citation=None)
UNKNOWN = SourceInfo(name="web", samples=4, licence=None, restriction=None, citation=None)


def encoder_card(arch: str = "resnet18", **changes: Any) -> Card:
    facts: dict[str, Any] = {
        **{"arch": arch, "timm_name": arch, "timm_features": "equal", "timm_difference": 0.0},
        **{"encoder_options": {}, "init": "random", "init_tag": "", "channels": 1},
        **{"classes": ("a<b|c", "martensite"), "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        **{"image_size": 32, "converged": True, "class_accuracy": (0.5, 1.0)},
        **{"metrics": {"top1": 0.75, "loss": 0.5, "epoch": 3}, "corpus_hash": "c" * 64},
        **{"sources": (OPEN,), "config": {"lr": 0.01, "epochs": 3}, "sha256": "0" * 64},
        "versions": {"torch": "2.15.0"},
    }
    return Card(**(facts | changes))


def make_export(
    folder: Path, arch: str = "resnet18", weights: bytes = b"weights", **changes: Any
) -> Path:
    """Write a folder like pretrain.export; `changes` are of its card."""
    (folder / "timm").mkdir(parents=True)
    (folder / "encoder.safetensors").write_bytes(weights)
    (folder / "timm" / "config.json").write_text("{}")
    (folder / "timm" / "model.safetensors").write_bytes(weights)
    sha256 = file_sha256(folder / "encoder.safetensors")
    write_card(folder, encoder_card(arch, sha256=sha256, **changes))
    return folder


def make_segmenter(folder: Path, **changes: Any) -> Path:
    """Write a calibrated run's folder; nothing that holds the word secret may be published."""
    folder.mkdir()
    (folder / "best.safetensors").write_bytes(b"network")
    (folder / "ood_reference.safetensors").write_bytes(b"features")
    (folder / "scores.png").write_bytes(b"a picture of secret images")
    splits = {"train": ["secret-1", "secret-2"], "val": ["secret-3"], "test": ["secret-4"]}
    (folder / "data.json").write_text(json.dumps({"splits": splits}))
    config = {"lr": 2e-4, "init": "/secret"}  # no card holds the private settings
    facts: dict[str, Any] = {
        **{"decoder": "Unet", "arch": "resnet18", "encoder_options": {}, "crop_size": 64},
        **{"init": str(folder / "secret.export"), "encoder_sha256": "e" * 64},
        **{"classes": ("matrix=rest", "a|<b=#0000ff"), "mean": IMAGENET_MEAN},
        **{"std": IMAGENET_STD, "orientation": "any", "micro_iou_classes": "all"},
        **{
            "converged": True,
            "collapse": "",
            "metrics": {"micro_iou": 0.625, "miou": None},
            "sources": (OPEN,),
        },
        **{"config": config, "versions": {"torch": "2.15.0"}},
        "sha256": file_sha256(folder / "best.safetensors"),
    }
    card = SegmenterCard(**(facts | changes))
    write_segmenter_card(folder, card)
    scores = {"train/secret-1": 1.5, "val/secret-3": 1.0}
    calibration = {"sha256": card.sha256, "ood_scores": scores}
    (folder / "calibration.json").write_text(json.dumps(calibration))
    return folder
