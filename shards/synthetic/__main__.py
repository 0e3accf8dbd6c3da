"""Write a seeded corpus of drawn micrographs, and a segmentation set with exact masks.

python -m shards.synthetic --out DIR

DIR/corpus/<class>/<class>_0000.png
DIR/segmentation/{train,val,test}/NAME.png and {train,val,test}_annot/NAME.png (class indices)
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from micrograph.cli import program, progress
from micrograph.settings import load_config
from shards.synthetic.classes import SEGMENTED, TEXTURES
from shards.synthetic.corpus import corpus_jobs, drawn, refuse_used, segmentation_jobs


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig:
    """Draw a labelled corpus of synthetic micrographs and a small segmentation set with masks."""

    out: Annotated[Path, "folder to create: OUT/corpus and OUT/segmentation"]
    images_per_class: Annotated[int, "micrographs drawn per class"] = 120
    size: Annotated[int, "width and height of a micrograph in pixels"] = 160
    labelled_class: Annotated[str, f"shown by the images with masks: {', '.join(SEGMENTED)}"] = (
        "layered_oxide"
    )
    seed: Annotated[int, "the same seed draws the same images, whatever their number"] = 0

    def __post_init__(self) -> None:
        if self.images_per_class < 1:
            raise ValueError(f"images_per_class must be at least 1, not {self.images_per_class}")
        if self.labelled_class not in SEGMENTED:
            known = ", ".join(SEGMENTED)
            raise ValueError(f"{self.labelled_class!r} has no masks; classes with masks: {known}")
        if self.size < 32:
            raise ValueError(f"size must be at least 32 pixels, not {self.size}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in 0 .. 2**32 - 1, not {self.seed}")


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(SyntheticConfig, argv)
    out = config.out.resolve()
    refuse_used(out)
    partial = out.with_name(out.name + ".partial")
    if partial.exists():  # a killed run left it
        shutil.rmtree(partial)
    jobs = corpus_jobs(partial / "corpus", config.images_per_class, config.size, config.seed)
    jobs += segmentation_jobs(
        partial / "segmentation", config.size, config.seed, config.labelled_class
    )
    for _ in progress(drawn(jobs), "drawing micrographs", total=len(jobs)):
        pass
    partial.replace(out)
    print(f"wrote {len(jobs)} micrographs of {len(TEXTURES)} classes to {config.out}")


if __name__ == "__main__":
    main()
