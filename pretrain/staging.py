"""Copy a shard set from a URL to the local cache once, checking the SHA-256 of each file.

python -m pretrain.staging s3://bucket/set        prints the folder; --shards takes that or the URL

The folder in the cache is named after the hash of the manifest: a set that changes at its URL gets
a new folder. One process copies, under a lock; other processes and jobs wait for it. Imports no
torch: a login node can stage for compute nodes without a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from micrograph.cli import program
from micrograph.settings import Positional, load_config
from pretrain.loading.staging import stage


@dataclass(frozen=True, kw_only=True)
class StagingConfig:
    """Copy a shard set from a URL to the local cache."""

    url: Annotated[str, Positional, "of the set: s3://…, https://…, or another of fsspec"]
    cache_dir: Annotated[Path | None, "[~/.cache/micrograph-pretrain]"] = None
    check: Annotated[bool, "hash every cached file, not only those that changed"] = False


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(StagingConfig, argv)
    print(stage(config.url, config.cache_dir, check=config.check))


if __name__ == "__main__":
    main()
