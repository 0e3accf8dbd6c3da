"""Import the encoders that NASA published: exports like ours, with card and checksum.

python -m pretrain.import_nasa FILE ... --out DIR [--registry URL]

FILE: the path of `ENCODER_pretrained_{microscopynet|imagenet-microscopynet}_vVERSION.pth.tar`, or
its name, which is downloaded from NASA. With a registry they are published as ARCH.micronet and
ARCH.image-micronet, the names in NASA's package. Importing this needs no torch, so that `--help`
is quick.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from micrograph.cli import console, program
from micrograph.settings import Positional, load_config


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Turn encoders that NASA published into exports, and publish them."""

    files: Annotated[tuple[str, ...], Positional, "….pth.tar files, or only their names"]
    out: Annotated[Path, "folder to write"] = Path("imported")
    registry: Annotated[str | None, "URL of a registry to publish them in, too"] = None


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(ImportConfig, argv)
    from pretrain.export.nasa import import_file  # imports torch; --help does not need it
    from pretrain.export.publishing import publish

    for file in config.files:
        out, tag, card = import_file(file, config.out)
        console.print(f"{out}: published top-1 {card.metrics['top1']:.2%}", markup=False)
        if config.registry:
            # Two of paper A's are at chance level; they are published, and marked as such.
            print(publish(out, tag, config.registry, not_converged=True))
        else:
            print(out)


if __name__ == "__main__":
    main()
