"""The folder of one training run: what lies where in it, and how others read it.

config.yaml        the resolved settings; `--config` repeats the run with them
manifest.json      of the shards it trains on
init_card.json     of the encoder that it began from, if that was an export
metrics.jsonl      one line per epoch
curves.png         the same to look at
confusion.png      of the best epoch: which classes are taken for which
status.json        where it stands, for who started it
checkpoints/       to go on from
best.safetensors   the classifier after its best epoch, with that epoch's scores

Imports no torch.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pretrain.card import read_card_file
from pretrain.config import TrainConfig
from pretrain.inits import resolve_init
from pretrain.registry.pull import pin
from shards.cli import UserError
from shards.schema import MANIFEST_NAME, Manifest, SourceInfo, read_manifest
from shards.settings import build_config, read_recipe


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Where things lie in a run's folder."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def manifest(self) -> Path:
        return self.folder / MANIFEST_NAME

    @property
    def init_card(self) -> Path:
        return self.folder / "init_card.json"

    @property
    def lock(self) -> Path:
        return self.folder / ".lock"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def best(self) -> Path:
        return self.folder / "best.safetensors"


def read_run(folder: Path) -> tuple[TrainConfig, Manifest, RunPaths]:
    """The settings and the corpus of an existing run. Raises `UserError` when there is none."""
    paths = RunPaths(folder)
    if not paths.config.is_file():
        raise UserError(f"no training run in {folder} (config.yaml is missing)")
    return build_config(TrainConfig, read_recipe(paths.config)), read_manifest(folder), paths


def pin_init(config: TrainConfig) -> TrainConfig:
    """State the version of an encoder from a registry: the one the run began from, else the newest.

    So a run that goes on is the same run, though a newer version may have been published since.
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


def read_sources(manifest: Manifest, paths: RunPaths) -> tuple[SourceInfo, ...]:
    """Of the corpus and of what the run began from: a restriction is not trained away."""
    if not paths.init_card.exists():
        return manifest.sources
    inherited = read_card_file(paths.init_card).sources
    return (*manifest.sources, *(s for s in inherited if s not in manifest.sources))


def read_story(paths: RunPaths) -> dict[str, Any] | None:
    """What is known of the kept epoch: `epoch`, `scores`, `converged`, `confusion`; None before it.

    Raises `UserError` when the file of its weights is damaged.
    """
    if not paths.best.exists():
        return None
    try:
        with safe_open(paths.best, framework="numpy") as file:  # reads no tensor
            story: dict[str, Any] = json.loads(file.metadata()["story"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{paths.best} is damaged: {error}") from error
    return story
