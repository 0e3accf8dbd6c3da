"""Draw a contact sheet of the augmentations: what the network sees in training.

python -m pretrain.preview --shards data/shards --out preview.png --noise 0.1

Takes every setting of training. One row per image, from different classes: the stored image with
its crop outlined; the crop with one augmentation at a time, at its extremes; then complete examples
as in training. Importing this needs no torch, so that `--help` is quick.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from micrograph.cli import UserError, program
from micrograph.settings import load_config
from pretrain.config import TrainConfig
from pretrain.loading.staging import stage


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewConfig(TrainConfig):
    """Draw a contact sheet of the augmentations; takes every setting of training."""

    out: Annotated[Path, "picture to write"] = Path("preview.png")


@program
def main(argv: Sequence[str] | None = None) -> None:
    # No network sees these images, so any architecture is fine.
    config = load_config(PreviewConfig, argv, {"arch": "resnet18"})
    from pretrain.loading.shard_reader import open_split
    from pretrain.outputs.contact_sheet import draw_sheet  # imports torch; --help does not need it

    data = open_split(stage(config.shards, config.cache_dir), "train")
    if not len(data):
        raise UserError(f"{config.shards} has no training images")
    draw_sheet(data, config, config.out)
    print(f"{config.out}: in each column, are the classes still distinguishable by eye?")


if __name__ == "__main__":
    main()
