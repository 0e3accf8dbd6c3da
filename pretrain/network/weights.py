"""Read encoder weights, check them against their card, and load them strictly."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from micrograph.cli import UserError, console, warn
from pretrain.cards.encoder_card import CARD_NAME, ENCODER_NAME, Card, read_card
from pretrain.registry.storage.pull import find_encoder
from shards.shard_format.schema import file_sha256

StateDict = dict[str, torch.Tensor]


def read_encoder(path: str | Path) -> tuple[StateDict, Card]:
    """Read an export (folder, safetensors file or name) and check it against its card.

    Raises `UserError` when a file is absent, not a safetensors file, or differs from its SHA-256.
    """
    path = find_encoder(path)
    file = path / ENCODER_NAME if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"no encoder at {path}; python -m pretrain.export RUN_DIR makes one")
    card = read_card(file.parent)
    found = file_sha256(file)
    if found != card.sha256:
        raise UserError(
            f"{file} is not the file that {CARD_NAME} describes "
            f"(SHA-256 {found[:12]}…, not {card.sha256[:12]}…); export or download it again"
        )
    try:
        return load_file(file), card
    except SafetensorError as error:
        raise UserError(f"{file} is not a safetensors file: {error}") from error


def load_encoder(encoder: nn.Module, arch: str, path: str | Path) -> Card:
    """Load all tensors of an export into smp's encoder for `arch`; return its card.

    Raises `UserError` for another architecture and for missing, extra or misshapen tensors.
    """
    state, card = read_encoder(path)
    if card.arch != arch:
        raise UserError(f"{path} holds a {card.arch}, not a {arch}; use --arch {card.arch}")
    load_strictly(encoder, state, str(path))
    if not card.converged:
        warn(f"{path} did not converge when it was trained")
    return card


def load_strictly(module: nn.Module, state: StateDict, origin: str) -> None:
    """Load `state`. Raises `UserError` naming tensors whose names or shapes do not fit."""
    own = module.state_dict()
    faults = []
    if missing := sorted(own.keys() - state.keys()):
        faults.append(f"{len(missing)} tensors missing, first {missing[0]}")
    if extra := sorted(state.keys() - own.keys()):
        faults.append(f"{len(extra)} tensors unknown, first {extra[0]}")
    for name in sorted(own.keys() & state.keys()):
        if own[name].shape != state[name].shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(own[name].shape)}"
            faults.append(f"{name} has shape {shapes}")
            break
    if faults:
        raise UserError(f"{origin} does not fit: {'; '.join(faults)}")
    module.load_state_dict(dict(state))  # smp's encoders remove keys from their argument
    console.print(f"loaded {len(state)} of {len(own)} tensors from {origin}", markup=False)
