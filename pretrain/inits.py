"""Where first weights come from: what a user's `--init` means. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pretrain.card import CARD_NAME


@dataclass(frozen=True, slots=True)
class Init:
    """Random weights, smp's or timm's published ones, or those of an export."""

    kind: Literal["random", "imagenet", "export"]
    label: str  # short, for the name of a folder
    path: Path | None = None  # of an export: its folder or its safetensors file

    @property
    def card_path(self) -> Path | None:
        """Where the card of an export lies."""
        if self.path is None:
            return None
        return (self.path if self.path.is_dir() else self.path.parent) / CARD_NAME


def resolve_init(init: str) -> Init:
    """What `init` means: `random`, `imagenet`, or else the path of an export."""
    if init == "random":
        return Init("random", init)
    if init == "imagenet":
        return Init("imagenet", init)
    return Init("export", Path(init).stem, Path(init))
