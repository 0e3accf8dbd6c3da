"""The folder of a pre-training run: its files beside those of every run, and how to read them.

manifest.json      of the shards it trains on
init_card.json     of the encoder that it started from, if that was an export
curves.png         metrics.jsonl as curves
confusion.png      the confusion matrix of the best epoch
best.safetensors   the classifier after its best epoch, with that epoch's metadata

Imports no torch.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from micrograph.atomic import write_atomically, writing_to
from micrograph.cli import UserError
from micrograph.settings import build_config, read_recipe
from pretrain.cards.encoder_card import read_card_file
from pretrain.config import TrainConfig
from pretrain.network.init import resolve_init
from pretrain.registry.storage.pull import pin
from pretrain.runs.run_folder import RunPaths
from shards.shard_format.schema import (
    MANIFEST_NAME,
    Manifest,
    SourceInfo,
    manifest_text,
    read_manifest,
)

INIT_CARD_NAME = "init_card.json"
BEST_METADATA = "best_epoch"  # key of the JSON text in the metadata of best.safetensors


def read_run(folder: Path) -> tuple[TrainConfig, Manifest, RunPaths]:
    """The settings and the corpus of an existing run. Raises `UserError` when there is none."""
    paths = RunPaths(folder)
    if not paths.config.is_file():
        raise UserError(f"no training run in {folder} (config.yaml is missing)")
    return build_config(TrainConfig, read_recipe(paths.config)), read_manifest(folder), paths


def pin_init(config: TrainConfig) -> TrainConfig:
    """Add the version of an encoder from a registry: the one the run started from, else the newest.

    So a resumed run is the same run, even if a newer version has been published since.
    """
    init = resolve_init(config.init)
    if init.kind != "registry":
        return config
    folder = config.run_folder
    if RunPaths(folder).config.is_file():
        before = read_run(folder)[0].init
        if before.startswith(f"{config.init}@"):
            return replace(config, init=before)
    return replace(config, init=pin(config.init))


def write_description(folder: Path, config: TrainConfig, manifest: Manifest) -> None:
    """Write what the run trains on and starts from. Raises `UserError` when the disk is full."""
    with writing_to(folder):
        write_atomically(folder / MANIFEST_NAME, manifest_text(manifest).encode())
        if (card := resolve_init(config.init).card_path) and card.is_file():
            write_atomically(folder / INIT_CARD_NAME, card.read_bytes())


def read_sources(manifest: Manifest, paths: RunPaths) -> tuple[SourceInfo, ...]:
    """Sources of the corpus and of the initial encoder: its restrictions still hold."""
    card = paths.folder / INIT_CARD_NAME
    if not card.exists():
        return manifest.sources
    inherited = read_card_file(card).sources
    return (*manifest.sources, *(s for s in inherited if s not in manifest.sources))


def read_best_metadata(paths: RunPaths) -> dict[str, Any] | None:
    """The best epoch's `epoch`, `scores`, `converged`, `confusion`; None before the first.

    Raises `UserError` when the file of its weights is damaged.
    """
    if not paths.best.exists():
        return None
    try:
        with safe_open(paths.best, framework="numpy") as file:  # reads no tensor
            metadata: dict[str, Any] = json.loads(file.metadata()[BEST_METADATA])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{paths.best} is damaged: {error}") from error
    return metadata
