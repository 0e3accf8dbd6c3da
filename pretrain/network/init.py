"""Where the initial weights come from: `--init`. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from micrograph.cli import UserError
from micrograph.settings import nearest
from pretrain.cards.archs import ARCHS
from pretrain.cards.encoder_card import CARD_NAME
from pretrain.cards.entry_names import is_name, parse_name
from pretrain.registry.storage.pull import find_encoder


@dataclass(frozen=True, slots=True)
class Init:
    """Random weights, smp's or timm's published ones, or those of an export or a registry."""

    kind: Literal["random", "imagenet", "export", "registry"]
    label: str  # short, for the name of a folder
    location: str | None = None  # an export's folder or safetensors file, or a registry's name

    @property
    def path(self) -> Path | None:
        """The export, pulled first from a registry. Raises `UserError` as `find_encoder`."""
        return None if self.location is None else find_encoder(self.location)

    @property
    def card_path(self) -> Path | None:
        """The card of an export."""
        path = self.path
        return path and (path if path.is_dir() else path.parent) / CARD_NAME


def resolve_init(init: str) -> Init:
    """Read `random`, `imagenet`, the path of an export, or a name in a registry.

    Raises `UserError` for a misspelt word and for the name of an architecture.
    """
    if init == "random":
        return Init("random", init)
    if init == "imagenet":
        return Init("imagenet", init)
    if is_name(init) and not Path(init).exists():
        return Init("registry", parse_name(init).tag, init)
    if init in ARCHS and not Path(init).exists():
        raise UserError(
            f"--init {init} is an architecture; use --arch {init} with "
            "--init random, imagenet, or an encoder's folder"
        )
    is_word = "/" not in init and not Path(init).exists()
    if is_word and (like := nearest(init, ("random", "imagenet"))):
        raise UserError(
            f"unknown init {init!r}; nearest is {like!r}; or an export's folder, or a name in a "
            "registry (ARCH.TAG)"
        )
    return Init("export", Path(init).stem, init)
