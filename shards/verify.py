"""Check a shard set: every checksum, count, label, index row and image.

python -m shards.verify DIR        exit code 0: complete and correct; 1: each fault is printed
python -m shards.verify s3://bucket/set --decode 0.01
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from micrograph.cli import console, cores, program
from micrograph.settings import Positional, load_config
from shards.shard_format.schema import (
    read_manifest,
)
from shards.verification.faults import find_faults, local_tables


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyConfig:
    """Check a shard set and print every fault."""

    set: Annotated[str, Positional, "folder that shards.write made, or its URL"]
    decode: Annotated[float, "fraction of the images to decode; every byte is hashed anyway"] = 1.0
    workers: Annotated[int | None, "threads [one per core]"] = None

    def __post_init__(self) -> None:
        if not 0 <= self.decode <= 1:
            raise ValueError(f"decode must be between 0 and 1, not {self.decode}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(VerifyConfig, argv)
    with local_tables(config.set) as (folder, bring):
        manifest = read_manifest(folder)
        workers = config.workers or cores()
        faults = list(find_faults(folder, manifest, config.decode, workers, bring))
    for fault in faults:
        print(fault)
    if faults:
        sys.exit(1)
    total = sum(split.samples for split in manifest.splits.values())
    console.print(f"{config.set}: complete, {total} images, {len(manifest.classes)} classes")


if __name__ == "__main__":
    main()
