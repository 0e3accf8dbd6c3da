"""List the encoders that can be trained. Imports no torch.

python -m pretrain.archs
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

from micrograph.cli import program
from micrograph.settings import load_config
from pretrain.cards.archs import ARCHS, TIMM_PREFIX


@dataclass(frozen=True, kw_only=True)
class ArchsConfig:
    """Print the encoders that can be trained."""

    json: Annotated[bool, "print a JSON object per arch"] = False


@program
def main(argv: Sequence[str] | None = None) -> None:
    if load_config(ArchsConfig, argv).json:
        print(json.dumps({name: asdict(spec) for name, spec in ARCHS.items()}, indent=1))
    else:
        _print_table()


def _print_table() -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 100  # characters; the table needs as many
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("arch", "timm name"):
        table.add_column(f"\n{heading}", overflow="fold")
    for heading in ("params\n(M)", "min\n(px)"):
        table.add_column(heading, justify="right")
    for heading in ("ImageNet\ntag", "\ndilates", "timm\nfeatures"):
        table.add_column(heading, overflow="fold")
    for name, spec in ARCHS.items():
        table.add_row(
            name + (" *" if spec.lr_note else ""),
            spec.timm_name,
            f"{spec.params:.2f}",
            str(spec.min_size),
            spec.weight_tag,
            "yes" if spec.dilates else "no",
            spec.timm_features,
        )
    console.print(table)
    for note in sorted({spec.lr_note for spec in ARCHS.values()} - {""}):
        console.print(f"* {note}")
    console.print(
        f"Parameters are the encoder's. {TIMM_PREFIX}NAME takes any timm model that has feature "
        "maps, such as\ntu-convnext_tiny, tu-swin_tiny_patch4_window7_224 and "
        "tu-vit_small_patch16_224."
    )


if __name__ == "__main__":
    main()
