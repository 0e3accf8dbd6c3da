"""The encoders that a probe compares: from a registry, an export, or an architecture's name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from downstream.network.models import is_arch, read_encoder_card
from micrograph.cli import UserError, warn
from pretrain.cards.entry_names import is_name
from pretrain.network.classifier import build_encoder
from pretrain.registry.site.contents import encoders, find_entries
from pretrain.registry.storage.folder_store import open_registry
from pretrain.registry.storage.pull import default_registry, find_encoder
from shards.shard_format.schema import IMAGENET_MEAN, IMAGENET_STD

IMAGENET_PREFIX = "imagenet:"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An encoder under the name given by the user, and how downstream.segment refers to it."""

    name: str
    arch: str
    init: str  # random, imagenet, a path, or a name in a registry
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def flags(self) -> tuple[str, ...]:
        """Those of downstream.segment that start from this encoder."""
        if self.init in ("random", "imagenet"):
            return ("--arch", self.arch, "--init", self.init)
        return ("--init", self.init)


def find_candidates(names: Sequence[str], registry: str | None) -> list[Candidate]:
    """The encoders called `names`; without names, the newest version of all in the registry.

    Raises `UserError` for an unknown name, and if there is nothing to try.
    """
    if names:
        return [_candidate(name, registry) for name in dict.fromkeys(names)]
    url = registry or default_registry()
    if url is None:
        raise UserError(
            "no encoders to try; give --encoders (folders of exports, names in a registry, "
            f"{IMAGENET_PREFIX}ARCH, or ARCH for random weights) or --registry URL"
        )
    found, faults = find_entries(open_registry(url), every_version=False)
    for fault in faults:
        warn(fault)
    candidates = []
    for entry, card in encoders(found):
        if card.converged:
            candidates.append(_candidate(str(entry.name), registry))
        else:
            warn(f"{entry.name} did not converge in training: left out")
    if not candidates:
        raise UserError(f"{url} has no encoder that converged; give --encoders")
    return candidates


def random_twin(candidate: Candidate) -> Candidate:
    """The same architecture with random weights: the baseline of pre-training."""
    return Candidate(f"random {candidate.arch}", candidate.arch, "random")


def is_entry(name: str) -> bool:
    """Whether a name means an entry of a registry: no architecture, file or folder."""
    return is_name(name) and not is_arch(name) and not Path(name).exists()


def build_frozen(candidate: Candidate, seed: int) -> nn.Module:
    """The encoder in evaluation mode. Raises `UserError` if its weights are not available."""
    torch.manual_seed(seed)  # for random weights
    return build_encoder(candidate.arch, candidate.init).eval()


def _candidate(name: str, registry: str | None) -> Candidate:
    if name.startswith(IMAGENET_PREFIX):
        return Candidate(name, name.removeprefix(IMAGENET_PREFIX), "imagenet")
    if is_arch(name):
        return Candidate(f"random {name}", name, "random")
    init = name if registry is None else str(find_encoder(name, registry))
    card = read_encoder_card(init)
    return Candidate(name, card.arch, init, card.mean, card.std)
