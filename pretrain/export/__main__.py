"""Export a training run's encoder so that others can load it.

python -m pretrain.export RUN_DIR [--out DIR]

encoder.safetensors    for smp, strictly: smp.Unet(arch).encoder.load_state_dict(load_file(...))
card.json              what its user must know (pretrain.cards.encoder_card)
timm/                  for timm (pretrain.export.timm_folder)

Importing this needs no torch, so that `--help` is quick.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from micrograph.cli import console, program, warn
from micrograph.settings import Positional, load_config


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export the encoder of a training run's best epoch."""

    run_dir: Annotated[Path, Positional, "folder of the run"]
    out: Annotated[Path | None, "folder to write [RUN_DIR/export]"] = None


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(ExportConfig, argv)
    from pretrain.export.encoder import export_encoder  # imports torch; --help does not need it

    out = config.out or config.run_dir / "export"
    card = export_encoder(config.run_dir, out)
    if not card.converged:
        warn("this run is at chance level or predicts one class: do not publish it")
    console.print(f"{card.arch}, top-1 {card.metrics['top1']:.2%} on {len(card.classes)} classes")
    print(out)


if __name__ == "__main__":
    main()
